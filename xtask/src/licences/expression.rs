/// Whether allowed licences satisfy an SPDX expression, with `/` as in old manifests for `OR`.
pub fn is_satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    alternatives(&mut rest, allowed).unwrap_or(false) && rest.is_empty()
}

/// `OR` binds less than `AND`; `None` if a licence or parenthesis is missing.
fn alternatives(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut satisfied = conjunction(words, allowed)?;
    while next_is(words, "OR") {
        satisfied |= conjunction(words, allowed)?;
    }
    Some(satisfied)
}

fn conjunction(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut satisfied = licence(words, allowed)?;
    while next_is(words, "AND") {
        satisfied &= licence(words, allowed)?;
    }
    Some(satisfied)
}

fn licence(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    if next_is(words, "(") {
        let satisfied = alternatives(words, allowed)?;
        return next_is(words, ")").then_some(satisfied);
    }
    let (first, rest) = words.split_first()?;
    *words = rest;
    let mut name = (*first).to_owned();
    if next_is(words, "WITH") {
        let (exception, rest) = words.split_first()?;
        *words = rest;
        name = format!("{name} WITH {exception}");
    }
    Some(allowed.contains(&name))
}

fn next_is(words: &mut &[&str], word: &str) -> bool {
    match words.split_first() {
        Some((first, rest)) if *first == word => {
            *words = rest;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_satisfied;

    fn check(expression: &str, expected: bool) {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Zlib"].map(str::to_owned);
        assert_eq!(is_satisfied(expression, &allowed), expected, "{expression}");
    }

    #[test]
    fn one_alternative_is_enough_and_all_parts_are_needed() {
        check("MIT", true);
        check("GPL-3.0", false);
        check("GPL-3.0 OR MIT", true);
        check("GPL-3.0/MIT", true);
        check("GPL-3.0 AND MIT", false);
        check("(GPL-3.0 OR MIT) AND Zlib", true);
        check("GPL-3.0 OR MIT AND Zlib", true);
        check("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true);
        check("Zlib WITH LLVM-exception", false);
    }

    #[test]
    fn malformed_expressions_are_not_satisfied() {
        check("", false);
        check("MIT OR", false);
        check("(MIT", false);
        check("MIT Zlib", false);
    }
}
