//! Master keys, each known by an id that follows from it, and the lines of the key file.

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::SealedError;
use super::envelope::{Key, Place, open, seal};

const WRAP: &str = "credway sealed key 1";
const CHECK: &str = "credway sealed check 1";

/// A key that wraps data keys.
pub(super) struct MasterKey {
    /// `mk_` and the first bytes of a hash of the key: the same id says the same key, and a mistyped line is noticed.
    id: String,
    key: Key,
}

impl MasterKey {
    pub(super) fn generate() -> Result<Self, SealedError> {
        Ok(Self::new(random()?))
    }

    fn new(key: Key) -> Self {
        let hash = Sha256::new().chain_update(b"credway master key\0").chain_update(*key).finalize();
        Self { id: format!("mk_{}", HEXLOWER.encode(&hash[..4])), key }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Wraps a data key, bound to its place and to this key's id.
    pub(super) fn wrap(&self, place: &Place<'_>, data_key: &Key) -> Result<Vec<u8>, SealedError> {
        // With room for the tag, so that sealing in place moves nothing.
        let mut plaintext = Zeroizing::new(Vec::with_capacity(64));
        plaintext.extend_from_slice(data_key.as_slice());
        seal(&self.key, &self.bound(place), plaintext)
    }

    pub(super) fn unwrap(&self, place: &Place<'_>, wrapped: &[u8]) -> Option<Key> {
        let opened = open(&self.key, &self.bound(place), wrapped)?;
        Some(Zeroizing::new(opened.as_slice().try_into().ok()?))
    }

    /// A sealed text that only this key opens: by it the database knows the key.
    pub(super) fn check(&self) -> Result<Vec<u8>, SealedError> {
        seal(&self.key, CHECK.as_bytes(), Zeroizing::new(self.id.clone().into_bytes()))
    }

    /// Whether `check` was made by this key.
    pub(super) fn is_checked_by(&self, check: &[u8]) -> bool {
        open(&self.key, CHECK.as_bytes(), check).is_some()
    }

    fn bound(&self, place: &Place<'_>) -> Vec<u8> {
        [place.bytes(WRAP).as_slice(), b"\0", self.id.as_bytes()].concat()
    }
}

/// The keys of one file, newest first; there is always one. And those that left it, which open but never seal.
pub(super) struct KeyRing {
    newest: MasterKey,
    older: Vec<MasterKey>,
    retired: Vec<MasterKey>,
}

impl KeyRing {
    pub(super) fn of(newest: MasterKey) -> Self {
        Self { newest, older: Vec::new(), retired: Vec::new() }
    }

    /// The same keys behind a newer one.
    pub(super) fn with_newer(self, newest: MasterKey) -> Self {
        let mut older = self.older;
        older.insert(0, self.newest);
        Self { newest, older, retired: self.retired }
    }

    /// The same keys, and those of the file of retired keys. A line that a crash left half written is passed over.
    pub(super) fn with_retired(self, text: &str) -> Self {
        Self { retired: text.lines().filter_map(parse_line).collect(), ..self }
    }

    /// The newest key as the only one of the file.
    pub(super) fn without_older(self) -> Self {
        let mut retired = self.older;
        retired.extend(self.retired);
        Self { newest: self.newest, older: Vec::new(), retired }
    }

    pub(super) fn newest(&self) -> &MasterKey {
        &self.newest
    }

    pub(super) fn get(&self, id: &str) -> Option<&MasterKey> {
        self.keys().chain(&self.retired).find(|key| key.id == id)
    }

    pub(super) fn has_older(&self) -> bool {
        !self.older.is_empty()
    }

    /// The ids of the file's keys, for people.
    pub(super) fn ids(&self) -> String {
        self.keys().map(MasterKey::id).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.newest).chain(&self.older)
    }

    /// The lines of the key file.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        lines(self.keys())
    }

    /// The lines of the older keys that are not retired yet.
    pub(super) fn to_retire(&self) -> Zeroizing<String> {
        lines(self.older.iter().filter(|key| !self.retired.iter().any(|other| *other.key == *key.key)))
    }

    /// Reads the lines of a key file; the error says which line is wrong, and never quotes it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (line, nth) in text.lines().zip(1..) {
            if !line.trim().is_empty() {
                keys.push(parse_line(line).ok_or_else(|| damaged(nth))?);
            }
        }
        if keys.is_empty() {
            return Err("holds no key: put the right file back, or remove it if nothing was sealed yet".into());
        }
        let newest = keys.remove(0);
        Ok(Self { newest, older: keys, retired: Vec::new() })
    }
}

fn lines<'a>(keys: impl Iterator<Item = &'a MasterKey>) -> Zeroizing<String> {
    const LINE_BYTES: usize = 64;
    let keys: Vec<_> = keys.collect();
    let mut text = Zeroizing::new(String::with_capacity(LINE_BYTES * keys.len()));
    for key in keys {
        text.push_str(&key.id);
        text.push(' ');
        text.push_str(&Zeroizing::new(BASE64.encode(key.key.as_slice())));
        text.push('\n');
    }
    text
}

/// Whether a line of these holds the key of this id.
pub(super) fn holds(text: &str, id: &str) -> bool {
    text.lines().filter_map(parse_line).any(|key| key.id == id)
}

fn parse_line(line: &str) -> Option<MasterKey> {
    const TEXT_BYTES: usize = 44;
    let (id, text) = line.trim().split_once(' ')?;
    let text = text.trim();
    if text.len() != TEXT_BYTES {
        return None;
    }
    // Room for the padding's share.
    let mut decoded = Zeroizing::new([0; 33]);
    let length = BASE64.decode_mut(text.as_bytes(), decoded.as_mut_slice()).ok()?;
    let key = MasterKey::new(Zeroizing::new(decoded[..length].try_into().ok()?));
    (key.id == id).then_some(key)
}

fn damaged(line: usize) -> String {
    format!(
        "is damaged in line {line}: a line is `mk_`, 8 hex digits, a space and the key in base64, and the id fits the key"
    )
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SealedError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| SealedError::Random { cause: error.to_string() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_reads_back() {
        let ring = KeyRing::of(MasterKey::generate().unwrap()).with_newer(MasterKey::generate().unwrap());
        let text = ring.to_text();
        let again = KeyRing::parse(&text).unwrap();
        assert_eq!(again.ids(), ring.ids());
        assert!(again.newest().is_checked_by(&ring.newest().check().unwrap()));
        assert!(!again.newest().is_checked_by(&ring.older[0].check().unwrap()));
    }

    #[test]
    fn damaged_lines_are_told_by_number_and_never_quoted() {
        let text = KeyRing::of(MasterKey::generate().unwrap()).to_text();
        let (id, key) = text.trim().split_once(' ').unwrap();
        let foreign = KeyRing::of(MasterKey::generate().unwrap()).to_text();
        let swapped = format!("{}\n{id} {}", text.trim(), &foreign.trim()[12..]);
        for (bad, line) in [(swapped.as_str(), 2), (&format!("{id}{key}"), 1), (&format!("{id} {}", &key[1..]), 1)] {
            let error = KeyRing::parse(bad).err().unwrap();
            assert!(error.contains(&format!("line {line}")) && !error.contains(&key[2..40]), "{error}");
        }
        assert!(KeyRing::parse("\n").is_err());
    }

    #[test]
    fn a_wrapped_key_opens_in_its_place_only() {
        let (master, other) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let data_key = random().unwrap();
        let place = Place { address: "a", version: 1 };
        let wrapped = master.wrap(&place, &data_key).unwrap();
        assert_eq!(*master.unwrap(&place, &wrapped).unwrap(), *data_key);
        assert!(other.unwrap(&place, &wrapped).is_none());
        assert!(master.unwrap(&Place { address: "a", version: 2 }, &wrapped).is_none());
        assert!(master.unwrap(&Place { address: "b", version: 1 }, &wrapped).is_none());
    }
}
