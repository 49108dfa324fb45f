//! From the names of a user and a group to their numbers, by `/etc/passwd` and `/etc/group`: the C library's own lookup needs
//! `unsafe`, and may ask the network. Whoever is known to a directory service only is given by number.

use std::io;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// Why a name gave no number.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error("there is no {kind} {name:?} in {file}: create it, or give the number of one known elsewhere")]
    Unknown { kind: &'static str, name: String, file: &'static str },
    #[error("cannot look up {kind} {name:?} in {file}")]
    Lookup { kind: &'static str, name: String, file: &'static str, source: io::Error },
}

/// The uid that a name or number means.
pub(super) fn uid(name: &str) -> Result<u32, OwnerError> {
    number("user", name, USERS)
}

/// The gid that a name or number means.
pub(super) fn gid(name: &str) -> Result<u32, OwnerError> {
    number("group", name, GROUPS)
}

fn number(kind: &'static str, name: &str, file: &'static str) -> Result<u32, OwnerError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let entries = std::fs::read_to_string(file).map_err(|source| OwnerError::Lookup {
        kind,
        name: name.to_owned(),
        file,
        source,
    })?;
    number_in(&entries, name).ok_or_else(|| OwnerError::Unknown { kind, name: name.to_owned(), file })
}

/// Both files hold `name:password:number:…`, one a line.
fn number_in(entries: &str, name: &str) -> Option<u32> {
    entries.lines().find_map(|line| {
        let mut columns = line.split(':');
        let number = columns.next().filter(|first| *first == name).and_then(|_| columns.nth(1))?;
        number.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: &str =
        "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\nexecutors:x:990:alice,bob\nodd:x:many:\n";

    #[test]
    fn a_name_is_found_by_its_whole_first_column() {
        assert_eq!(number_in(ENTRIES, "executors"), Some(990));
        assert_eq!(number_in(ENTRIES, "root"), Some(0));
        assert_eq!(number_in(ENTRIES, "executor"), None);
        assert_eq!(number_in(ENTRIES, ""), None);
    }

    #[test]
    fn a_broken_line_names_nobody() {
        assert_eq!(number_in(ENTRIES, "broken"), None);
        assert_eq!(number_in(ENTRIES, "odd"), None);
    }

    #[test]
    fn a_number_needs_no_entry() {
        assert_eq!(gid("4242").unwrap(), 4242);
    }

    #[test]
    fn an_unknown_name_says_where_it_was_looked_for() {
        let refusal = uid("no-such-user").unwrap_err().to_string();
        assert_eq!(
            refusal,
            "there is no user \"no-such-user\" in /etc/passwd: create it, or give the number of one known elsewhere"
        );
    }
}
