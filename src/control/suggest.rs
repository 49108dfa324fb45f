//! "Did you mean": the known name that a wrong one is nearest to.

/// The one of `known` that `word` is probably a slip of.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(word, name);
    let near = known.into_iter().min_by_key(distance)?;
    // A third of the letters wrong is another word, not a slip.
    (distance(&near) <= near.chars().count() / 3).then_some(near)
}

/// `: did you mean "…"?`, or nothing.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|name| format!(": did you mean {name:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["connections", "instances", "env"];
        let table = [
            ("conections", Some("connections")),
            ("instance", Some("instances")),
            ("enw", Some("env")),
            ("secrets", None),
        ];
        for (word, expected) in table {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
