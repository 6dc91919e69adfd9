//! The text of an e-mail as its reader sees it, from the raw bytes.
//!
//! Headers are removed everywhere (in the mail, in its parts, quoted in a body), since a header would give the label
//! away. Footers of mailing lists stay: they are part of the body and make some mails easy.

/// The text of a mail without headers, markup and transfer encoding, on one line; empty if it has none.
pub fn text(mail: &[u8]) -> String {
    // Latin-1 maps every byte to a character, so that parts can still be decoded from the bytes.
    let mail: String = mail.iter().map(|&byte| char::from(byte)).collect();
    let mail = mail.replace("\r\n", "\n");
    clean(&part(&mail, 0))
}

/// The deepest nesting of parts.
const DEPTH: usize = 8;

/// The text of a mail or of one of its parts, headers first.
fn part(raw: &str, depth: usize) -> String {
    let (headers, body) = match raw.strip_prefix('\n') {
        Some(body) => ("", body),
        None => raw.split_once("\n\n").unwrap_or((raw, "")),
    };
    // A folded header continues on lines that start with white space.
    let headers = headers.replace("\n ", " ").replace("\n\t", " ");
    let header = |name: &str| {
        headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_string())
        })
    };
    let content = header("content-type").unwrap_or_default();
    let kind = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if depth < DEPTH
        && kind.starts_with("multipart/")
        && let Some(boundary) = parameter(&content, "boundary")
    {
        return multipart(body, &boundary, kind == "multipart/alternative", depth);
    }
    if depth < DEPTH && kind == "message/rfc822" {
        return part(body, depth + 1);
    }
    if !(kind.is_empty() || kind.starts_with("text") || kind.starts_with("multipart/")) {
        return String::new();
    }
    let encoding = header("content-transfer-encoding").unwrap_or_default().to_ascii_lowercase();
    let bytes = match encoding.as_str() {
        "base64" => base64(body),
        "quoted-printable" => quoted_printable(body),
        _ => body.chars().map(|c| c as u8).collect(),
    };
    let text = String::from_utf8(bytes).unwrap_or_else(|e| e.as_bytes().iter().map(|&b| char::from(b)).collect());
    let looks_like_html = || {
        let lower = text.to_ascii_lowercase();
        lower.contains("<html") || lower.contains("<body") || lower.contains("</a>") || lower.contains("<br>")
    };
    if kind == "text/html" || looks_like_html() { without_tags(&text) } else { text }
}

/// The text of all parts; of alternatives, the first with text.
fn multipart(body: &str, boundary: &str, alternatives: bool, depth: usize) -> String {
    let marker = format!("\n--{boundary}");
    // Skip the preamble: it addresses mail programs without MIME.
    let body = format!("\n{body}");
    let texts = body
        .split(marker.as_str())
        .skip(1)
        .take_while(|piece| !piece.starts_with("--"))
        .map(|piece| part(piece.strip_prefix('\n').unwrap_or(piece), depth + 1))
        .filter(|text| !text.trim().is_empty());
    if alternatives { texts.take(1).collect() } else { texts.collect::<Vec<_>>().join("\n") }
}

/// The value of `name=value` or `name="value"` in a header.
fn parameter(header: &str, name: &str) -> Option<String> {
    let start = header.to_ascii_lowercase().find(&format!("{name}="))? + name.len() + 1;
    let value = &header[start..];
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => value.split([';', ' ']).next()?,
    };
    (!value.is_empty()).then(|| value.to_string())
}

fn quoted_printable(body: &str) -> Vec<u8> {
    let body = body.replace("=\n", "");
    let bytes: Vec<u8> = body.chars().map(|c| c as u8).collect();
    let digit = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'=', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn base64(body: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut decoded, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in body.bytes().take_while(|&b| b != b'=') {
        let Some(value) = DIGITS.iter().position(|&d| d == byte) else { continue };
        bits = (bits << 6) | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    decoded
}

/// HTML as text: without scripts, styles, comments and tags, with common entities decoded.
fn without_tags(html: &str) -> String {
    let mut rest = html;
    let mut text = String::with_capacity(html.len());
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        let tag = &rest[open..];
        let lower = tag.get(..7.min(tag.len())).unwrap_or("").to_ascii_lowercase();
        let end = if tag.starts_with("<!--") {
            "-->"
        } else if lower.starts_with("<script") {
            "</script>"
        } else if lower.starts_with("<style") {
            "</style>"
        } else {
            ">"
        };
        // Only a markup character may follow: "a < b" is text.
        if !tag[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!' || c == '?') {
            text.push('<');
            rest = &tag[1..];
            continue;
        }
        text.push(' ');
        rest = match tag.to_ascii_lowercase().find(end) {
            Some(close) => &tag[close + end.len()..],
            None => "",
        };
    }
    text.push_str(rest);
    entities(&text)
}

fn entities(text: &str) -> String {
    let mut pieces = text.split('&');
    let mut decoded = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let known = piece.split_once(';').and_then(|(name, rest)| {
            let character = match name {
                "nbsp" => ' ',
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "copy" | "reg" => ' ',
                _ => char::from_u32(name.strip_prefix('#')?.parse().ok()?)?,
            };
            Some((character, rest))
        });
        match known {
            Some((character, rest)) => {
                decoded.push(character);
                decoded.push_str(rest);
            }
            None => {
                decoded.push('&');
                decoded.push_str(piece);
            }
        }
    }
    decoded
}

/// The names of headers that are quoted or forwarded in a body.
const HEADERS: [&str; 18] = [
    "from",
    "to",
    "cc",
    "bcc",
    "subject",
    "date",
    "sent",
    "url",
    "reply-to",
    "received",
    "return-path",
    "message-id",
    "mime-version",
    "x-",
    "content-",
    "list-",
    "delivered-to",
    "sender",
];

/// The words of a text, single-spaced, without header lines, boundaries, quotation marks, rules and encoded blocks.
fn clean(text: &str) -> String {
    let mut words = Vec::new();
    for line in text.lines().map(unquoted).filter(|line| !is_header(line) && !is_boundary(line)) {
        for word in line.split(|c: char| c.is_whitespace() || c.is_control()) {
            let word = shorten_runs(word);
            let length = word.chars().count();
            let rule = length >= 3 && !word.contains(|c: char| c.is_alphanumeric());
            if word.is_empty() || rule || (length > LONGEST_WORD && !word.contains("://")) {
                continue;
            }
            words.push(word.chars().take(LONGEST_WORD).collect::<String>());
        }
    }
    words.join(" ")
}

/// Longer words are encoded data, which is dropped, or addresses, which are cut.
const LONGEST_WORD: usize = 40;

/// A line without leading quotation marks.
fn unquoted(line: &str) -> &str {
    line.trim_start_matches(['>', '|', ' ', '\t'])
}

fn is_header(line: &str) -> bool {
    let line = line.trim_start_matches('*').to_ascii_lowercase();
    line.split_once(':').is_some_and(|(name, _)| {
        HEADERS.iter().any(|h| name == *h || (h.ends_with('-') && name.starts_with(h) && !name.contains(' ')))
    })
}

fn is_boundary(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("--") && line.len() > 12 && !line.contains(' ') && line.contains(|c: char| c.is_alphanumeric())
}

/// At most three of the same punctuation character in a row.
fn shorten_runs(word: &str) -> String {
    let mut short = String::with_capacity(word.len());
    let (mut last, mut run) = (' ', 0);
    for c in word.chars() {
        run = if c == last { run + 1 } else { 1 };
        last = c;
        if run <= 3 || c.is_alphanumeric() {
            short.push(c);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::text;

    fn check(mail: &str, expected: &str) {
        assert_eq!(text(mail.as_bytes()), expected);
        assert_eq!(text(mail.replace('\n', "\r\n").as_bytes()), expected, "with carriage returns");
    }

    #[test]
    fn headers_go_and_the_body_stays() {
        check("From a@b Mon\nSubject: Win\nReceived: from x\n\tby y\n\nHello  there,\n\nyou.", "Hello there, you.");
        check("Subject: only headers\n", "");
        check("Subject: s\n\n> From: someone\n> Subject: offer\n> X-Mailer: m\n> I said: yes", "I said: yes");
    }

    #[test]
    fn parts_lose_their_headers_and_boundaries() {
        check(
            "Content-Type: multipart/mixed;\n boundary=\"=_1\"\n\nFor old programs\n\n--=_1\nContent-Type: text/plain\n\n\
             First.\n--=_1\n\nSecond.\n--=_1\nContent-Type: image/gif\n\nR0lGOD\n--=_1--\nAfter",
            "First. Second.",
        );
        check(
            "Content-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/plain\n\nPlain\n--b\n\
             Content-Type: text/html\n\n<p>Rich</p>\n--b--\n",
            "Plain",
        );
        check(
            "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/related; boundary=i\n\n--i\n\n\
             Inner\n--i--\n--o\nContent-Type: message/rfc822\n\nSubject: forwarded\n\nLetter\n--o--\n",
            "Inner Letter",
        );
        check(
            "Content-Type: multipart/mixed\n\nText\n------=_NextPart_000\nContent-Type: text/plain\n\nmore",
            "Text more",
        );
    }

    #[test]
    fn transfer_encodings_are_undone() {
        check("Content-Transfer-Encoding: quoted-printable\n\nsoft=\nly 1=2B1=3D2 =zz", "softly 1+1=2 =zz");
        check("Content-Transfer-Encoding: BASE64\n\nSGVsbG8g\nd29ybGQ=\n", "Hello world");
    }

    #[test]
    fn markup_becomes_text() {
        check(
            "Content-Type: text/html\n\n<HTML><style>p { x: y }</style><!-- <b>no</b> --><p>Fish &amp;&nbsp;chips \
             for&#32;&pound; 3 < 4<script>x<y</script><br/>Yes",
            "Fish & chips for &pound; 3 < 4 Yes",
        );
        check("\n<a href=\"http://x\">Click</a> here", "Click here");
    }

    #[test]
    fn encoded_blocks_and_rules_are_no_words() {
        let block = "A".repeat(60);
        check(&format!("\nOne {block} two ------ three!!!!!!"), "One two three!!!");
        let address = format!("http://{}", "a".repeat(60));
        check(&format!("\n{address}"), &address[..40]);
    }
}
