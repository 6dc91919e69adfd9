/// One or more patterns for names of blocks, separated by commas; `*` stands for any characters.
///
/// ```
/// use hyperinf_data::Pattern;
///
/// let pattern = Pattern::new("*lora_B*, classifier.*");
/// assert!(pattern.matches("layer.0.query.lora_B.weight") && pattern.matches("classifier.bias"));
/// assert!(!pattern.matches("layer.0.query.lora_A.weight"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// A pattern; every text is one.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// The pattern as given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a whole name matches one of the patterns.
    pub fn matches(&self, name: &str) -> bool {
        self.text.split(',').any(|pattern| matches(pattern.trim(), name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(begin) else { return false };
    let (middle, end) = rest.rsplit_once('*').map_or(("", rest), |(middle, end)| (middle, end));
    // The first place where a part matches leaves the most room for the others.
    for part in middle.split('*') {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(end)
}
