//! Canaries, and the net that finds them in whatever encoding.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use tonic::Status;

/// Bytes of a canary that together are no coincidence.
const WINDOW: usize = 8;

/// Every canary that was sent out: where it was put, and its bytes.
#[derive(Default)]
pub(super) struct Canaries(Vec<(String, Vec<u8>)>);

/// What came out of credway, with where.
#[derive(Default)]
pub(super) struct Evidence(Vec<(String, Vec<u8>)>);

impl Canaries {
    /// A new canary: letters and digits that never look like a word, around what has to be escaped somewhere.
    pub(super) fn hatch(&mut self, place: &str) -> String {
        let text = format!("{}\"\\/+&%<é {}", random_text(), random_text());
        self.0.push((place.to_owned(), text.clone().into_bytes()));
        text
    }

    /// A canary of letters and digits alone, for places that take no others.
    pub(super) fn hatch_plain(&mut self, place: &str) -> String {
        let text = random_text();
        self.0.push((place.to_owned(), text.clone().into_bytes()));
        text
    }

    /// Something secret that was made elsewhere.
    pub(super) fn adopt(&mut self, place: &str, secret: impl Into<Vec<u8>>) {
        self.0.push((place.to_owned(), secret.into()));
    }

    /// An access token: its first part is shown in lists, on purpose.
    pub(super) fn adopt_token(&mut self, place: &str, token: &str) {
        self.adopt(place, &token.as_bytes()["pat_4f7k92qd".len()..]);
    }

    /// The places of all canaries whose whole text is in `bytes`.
    pub(super) fn caught_in(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let is_in = |secret: &Vec<u8>| bytes.windows(secret.len()).any(|window| window == secret);
        self.0.iter().filter(|(_, secret)| is_in(secret)).map(|(place, _)| place.as_str()).collect()
    }

    /// Fails if any canary is in the evidence, and says which and where.
    pub(super) fn are_in_none_of(&self, evidence: &Evidence) {
        let net = Net::of(&self.0);
        for (place, secret) in &self.0 {
            assert!(net.catches(secret).is_some_and(|(caught, _)| caught == place), "the net is torn at {place}");
        }
        let mut leaks = String::new();
        for (source, bytes) in &evidence.0 {
            if let Some((place, at)) = net.catches(bytes) {
                let around = &bytes[at.saturating_sub(60)..bytes.len().min(at + 60)];
                let _ = writeln!(leaks, "{source} shows {place}: …{}…", String::from_utf8_lossy(around));
            }
        }
        assert!(leaks.is_empty(), "\n{leaks}");
    }
}

impl Evidence {
    pub(super) fn add(&mut self, source: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((source.into(), bytes.into()));
    }

    /// All that a caller sees of a refusal.
    pub(super) fn add_status(&mut self, source: &str, status: &Status) {
        let seen = format!("{} {:?}", status.message(), status.metadata());
        self.add(format!("the status of {source}"), [seen.as_bytes(), status.details()].concat());
    }

    /// Every file below `directory`, but those of the names in `but`.
    pub(super) fn add_files(&mut self, directory: &Path, but: &[&str]) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            match entry.file_type().unwrap() {
                _ if but.contains(&name.as_str()) => {}
                kind if kind.is_dir() => self.add_files(&path, but),
                kind if kind.is_file() => self.add(path.display().to_string(), fs::read(&path).unwrap()),
                _ => {}
            }
        }
    }

    /// Environment and command line of a process, as other users may see them.
    pub(super) fn add_process(&mut self, name: &str, pid: u32) {
        for file in ["environ", "cmdline"] {
            match fs::read(format!("/proc/{pid}/{file}")) {
                Ok(bytes) => self.add(format!("/proc/…/{file} of {name}"), bytes),
                // Not even its own user may read the environment of a process that may not be dumped.
                Err(error) => assert_eq!((error.kind(), file), (std::io::ErrorKind::PermissionDenied, "environ")),
            }
        }
    }

    /// The bytes that were added under a name that starts like this.
    pub(super) fn of(&self, source: &str) -> Vec<u8> {
        let found = self.0.iter().filter(|(name, _)| name.starts_with(source));
        found.flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

fn random_text() -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = [0_u8; 24];
    getrandom::fill(&mut random).unwrap();
    random.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Every piece of every canary in every encoding, found in one pass.
struct Net<'a> {
    /// Whether any piece starts with these two bytes: most of what is searched ends here.
    starts: Vec<bool>,
    pieces: HashMap<[u8; 4], Vec<(Vec<u8>, &'a str)>>,
}

impl<'a> Net<'a> {
    fn of(canaries: &'a [(String, Vec<u8>)]) -> Self {
        let mut net = Self { starts: vec![false; 1 << 16], pieces: HashMap::new() };
        for (place, secret) in canaries {
            net.cast(secret, WINDOW, place);
            for encoding in [BASE64, BASE64URL] {
                // Base64 has three alignments; the last characters of each depend on what follows.
                for shift in 0..3 {
                    let whole = (secret.len() - shift) / 3 * 3;
                    net.cast(encoding.encode(&secret[shift..shift + whole]).as_bytes(), WINDOW * 4 / 3 + 1, place);
                }
            }
            net.cast(HEXLOWER.encode(secret).as_bytes(), WINDOW * 2, place);
            net.cast(HEXUPPER.encode(secret).as_bytes(), WINDOW * 2, place);
            for bytes in secret.windows(WINDOW) {
                // As Debug prints bytes, and as JSON does.
                let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
                net.piece(numbers.join(", ").as_bytes(), place);
                net.piece(numbers.join(",").as_bytes(), place);
            }
        }
        net
    }

    fn cast(&mut self, text: &[u8], window: usize, place: &'a str) {
        text.windows(window).for_each(|piece| self.piece(piece, place));
    }

    fn piece(&mut self, piece: &[u8], place: &'a str) {
        self.starts[usize::from(u16::from_le_bytes([piece[0], piece[1]]))] = true;
        let start = piece[..4].try_into().unwrap();
        self.pieces.entry(start).or_default().push((piece.to_vec(), place));
    }

    /// The first canary in `bytes`, and where.
    fn catches(&self, bytes: &[u8]) -> Option<(&'a str, usize)> {
        for (at, pair) in bytes.windows(2).enumerate() {
            if !self.starts[usize::from(u16::from_le_bytes([pair[0], pair[1]]))] {
                continue;
            }
            let Some(start) = bytes.get(at..at + 4) else { continue };
            let candidates = self.pieces.get(start).into_iter().flatten();
            if let Some((_, place)) = candidates.into_iter().find(|(piece, _)| bytes[at..].starts_with(piece)) {
                return Some((place, at));
            }
        }
        None
    }
}

#[test]
fn the_net_catches_a_part_of_a_canary_in_any_encoding() {
    let mut canaries = Canaries::default();
    let text = canaries.hatch("here");
    let net = Net::of(&canaries.0);
    let part = &text.as_bytes()[9..20];
    let haystacks = [
        part.to_vec(),
        BASE64.encode(&[b"x", text.as_bytes()].concat()).into_bytes(),
        BASE64URL.encode(&[b"xy", text.as_bytes()].concat()).into_bytes(),
        HEXLOWER.encode(part).into_bytes(),
        format!("{part:?}").into_bytes(),
        serde_json::to_vec(&text).unwrap(),
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().into_bytes(),
    ];
    for haystack in haystacks {
        let shown = String::from_utf8_lossy(&haystack);
        assert!(
            net.catches(&[b"before ".as_slice(), &haystack, b" after"].concat()).is_some(),
            "{shown} slipped through"
        );
    }
    assert!(net.catches(b"an honest log line of a daemon that keeps what it is told").is_none());
}
