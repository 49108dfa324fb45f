//! F8: the scenarios of `scenario.txt`, step by step.

use std::collections::BTreeMap;
use std::time::Duration;

use credway::model::secret::SecretAddress;
use credway::secrets::cache::CachePolicy;
use futures_util::future::join_all;
use jiff::SignedDuration;

use super::rig::{Answer, Lying, Mode, Rig, version, word, yield_often};

const SCENARIOS: &str = include_str!("scenario.txt");

struct Stage {
    rig: Rig,
    secrets: BTreeMap<String, SecretAddress>,
}

impl Stage {
    fn new() -> Self {
        Self { rig: Rig::new(1), secrets: BTreeMap::new() }
    }

    fn secret(&mut self, name: &str) -> SecretAddress {
        let rig = &self.rig;
        self.secrets.entry(name.to_owned()).or_insert_with(|| rig.secret()).clone()
    }

    /// Carries out one step and returns what it said, in the words of the file.
    async fn step(&mut self, step: &str) -> String {
        let words: Vec<&str> = step.split_whitespace().collect();
        match words.as_slice() {
            ["get", name] => return self.get(name, 1, CachePolicy::Availability).await,
            ["get", name, "fidelity"] => return self.get(name, 1, CachePolicy::Fidelity).await,
            ["crowd", count, name] => {
                return self.get(name, count.parse().unwrap(), CachePolicy::Availability).await;
            }
            ["advance", span] => {
                let span: SignedDuration = span.parse().unwrap();
                self.rig.clock.advance(Duration::try_from(span).unwrap());
            }
            ["wall", "jumps", span] => self.rig.clock.jump(span.parse().unwrap()),
            ["change", name] => self.change(name, |lying| lying.version += 1),
            ["revoke", name] => self.change(name, |lying| lying.is_revoked = true),
            ["delete", name] => self.change(name, |lying| lying.is_deleted = true),
            ["restore", name] => self.change(name, |lying| (lying.is_revoked, lying.is_deleted) = (false, false)),
            ["invalidate", "all"] => self.rig.cache.revalidate_all(),
            ["invalidate", name] => self.rig.cache.revalidate(self.secrets[*name].connection),
            ["forget", name] => self.rig.cache.forget(self.secrets[*name].connection),
            ["sweep"] => self.rig.cache.sweep().await,
            ["store", "down", "503"] => self.rig.store.turn(Mode::Down),
            ["store", "hang"] => self.rig.store.turn(Mode::Hang),
            ["store", "up"] => self.rig.store.turn(Mode::Up),
            ["store", "seen", "up"] => self.rig.cache.store_is_back(),
            _ => panic!("{step:?} is no step"),
        }
        String::new()
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Lying)) {
        let connection = self.secret(name).connection;
        self.rig.store.change(connection, change);
    }

    async fn get(&mut self, name: &str, callers: usize, policy: CachePolicy) -> String {
        let address = self.secret(name);
        let before = self.rig.store.reads(address.connection);
        // The first read waits for the last caller.
        let gate = self.rig.store.hold_next();
        let all_came = async {
            yield_often().await;
            self.rig.store.hold_none();
            gate.add_permits(1);
        };
        let callers = join_all((0..callers).map(|_| self.rig.cache.get(&address, policy)));
        let (answers, ()) = tokio::join!(callers, all_came);
        self.rig.settle().await;
        let contacts = self.rig.store.reads(address.connection) - before;
        let told = |answer: &Answer| match answer {
            Ok(fetched) => format!("freshness={} version={}", word(answer), version(fetched)),
            Err(_) => format!("freshness={}", word(answer)),
        };
        let mut told: Vec<String> = answers.iter().map(told).collect();
        told.dedup();
        format!("contacts={contacts} {}", told.join(" or "))
    }
}

#[tokio::test(start_paused = true)]
async fn f8_every_scenario_of_the_file_goes_as_written() {
    let mut stage = Stage::new();
    let (mut title, mut checked) = ("", 0);
    for (index, line) in SCENARIOS.lines().enumerate() {
        let line = line.split('#').next().unwrap().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(next) = line.strip_prefix("== ") {
            (stage, title) = (Stage::new(), next);
            continue;
        }
        let (step, expected) = line.split_once("->").unwrap_or((line, ""));
        let said = stage.step(step.trim()).await;
        let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(said, expected, "\nscenario.txt:{}: {title}: {}", index + 1, step.trim());
        checked += usize::from(!expected.is_empty());
    }
    assert!(checked > 50, "only {checked} answers were looked at");
}
