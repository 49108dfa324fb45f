//! The audit with its thread turned by hand, on files that fill, move and come back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::file::RecordFile;
use super::record::Used;
use super::*;
use crate::clock::ManualClock;
use crate::model::caller::{Role, ScopeSet, Subject};
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, RunTokenId, TenantId, TokenId};
use crate::model::reason::Reason;
use crate::model::resolution::InstanceRef;

/// An audit whose thread is this test: it writes when `round` is called.
struct Rig {
    audit: Audit,
    writer: Writer,
    clock: ManualClock,
    metrics: Metrics,
    file: PathBuf,
    buffer: Vec<Entry>,
    dir: TempDir,
}

impl Rig {
    fn new(when_full: WhenFull) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        Self::at(file, when_full, dir)
    }

    fn at(file: PathBuf, when_full: WhenFull, dir: TempDir) -> Self {
        let manual = ManualClock::at("2026-11-22T14:47:00.000001Z".parse().unwrap());
        let (clock, metrics) = (Clock::Manual(manual.clone()), Metrics::new());
        let shared = Arc::new(Shared::new(when_full == WhenFull::Refuse, metrics.clone()));
        let bytes_max = limits::AUDIT_FILE_BYTES_MIN;
        let writer = Writer::new(Arc::clone(&shared), file.clone(), bytes_max, clock.clone());
        let audit = Audit::of(clock, Some(Open { shared, ended: CancellationToken::new() }));
        Self { audit, writer, clock: manual, metrics, file, buffer: queue::Queue::buffer(), dir }
    }

    fn round(&mut self) {
        self.writer.round(&mut self.buffer);
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    fn note(&self, told: &Arc<Record>) -> bool {
        self.audit.note(Arc::clone(told) as Arc<dyn Told>, Clock::Manual(self.clock.clone()).moment())
    }

    /// A call, from its beginning to what its caller is told.
    fn call(&self) -> Result<(), Refusal> {
        let asked = self.audit.asked(Method::Resolve, &caller(), &request())?;
        asked.told(Ok(()), |()| Outcome::Resolved(resolved()))
    }

    fn shows(&self, metric: &str) -> bool {
        self.metrics.render().contains(&format!("{metric}\n"))
    }
}

fn caller() -> Arc<Caller> {
    Arc::new(Caller {
        subject: Subject::Token(TokenId::from_bytes([1; 16])),
        tenant: TenantId::from_bytes([2; 16]),
        project: Some(ProjectId::from_bytes([3; 16])),
        role: Role::Viewer,
        scopes: ScopeSet::default(),
        binding: None,
        expires_at: None,
    })
}

fn request() -> ResolutionRequest {
    ResolutionRequest {
        project: None,
        workflow: Some("nightly".into()),
        instance: InstanceRef::Name("pay".into()),
        expected_server: None,
        step: Some("charge".into()),
        min_token_ttl: limits::MIN_TOKEN_TTL_DEFAULT,
    }
}

fn resolved() -> Resolved {
    let used =
        |id, freshness| Used { id: ConnectionId::from_bytes([id; 16]), version: 7, secret_version: 8, freshness };
    Resolved {
        project: ProjectId::from_bytes([3; 16]),
        instance: InstanceId::from_bytes([4; 16]),
        profile: ProfileId::from_bytes([5; 16]),
        profile_version: 6,
        connections: Box::new([used(0xa, "fresh"), used(0xb, "stale")]),
    }
}

fn record(method: Method, outcome: Outcome) -> Arc<Record> {
    Arc::new(Record::of(method, &caller(), Some(&request()), outcome))
}

#[test]
fn a_record_is_a_line_of_ids_versions_and_words() {
    let mut rig = Rig::new(WhenFull::Drop);
    let told = [
        record(Method::Resolve, Outcome::Resolved(resolved())),
        record(Method::Resolve, Outcome::Resolved(resolved()).from_memory()),
        record(
            Method::IssueRunToken,
            Outcome::Issued {
                project: ProjectId::from_bytes([3; 16]),
                instance: InstanceId::from_bytes([4; 16]),
                token: RunTokenId::from_bytes([9; 16]),
            },
        ),
        record(Method::BatchStep, Outcome::refused(&Refusal::internal().with_id("connection_id", "conn_x"))),
        record(Method::Watch, Outcome::Abandoned),
    ];
    for record in &told {
        rig.note(record);
        rig.round();
        rig.clock.advance(Duration::from_micros(1));
    }
    let (known, no) = (caller(), Refusal::invalid_request("step", "a \"canary\""));
    let stranger = Caller { subject: Subject::Certificate("a\n\"b".into()), project: None, ..(*known).clone() };
    rig.audit.refused(Method::McpConfig, &Arc::new(stranger), &no);
    rig.round();
    insta::assert_snapshot!(rig.text());
}

#[test]
fn what_is_told_again_shares_a_line_with_each_of_its_times() {
    let mut rig = Rig::new(WhenFull::Drop);
    let told = record(Method::Resolve, Outcome::Resolved(resolved()));
    for _ in 0..limits::AUDIT_TIMES_PER_LINE + 2 {
        rig.clock.advance(Duration::from_millis(1));
        rig.note(&told);
    }
    rig.clock.advance(Duration::from_secs(1));
    rig.round();
    let lines: Vec<serde_json::Value> = rig.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<_> = lines.iter().map(|line| line["at"].as_array().unwrap().len()).collect();
    assert_eq!(times, [limits::AUDIT_TIMES_PER_LINE, 2]);
    assert_eq!(lines[0]["at"][1], "2026-11-22T14:47:00.002001Z");
    assert!(rig.shows("credway_audit_records_total 102"));
}

#[test]
fn what_others_chose_is_cut_at_a_bound() {
    let mut rig = Rig::new(WhenFull::Drop);
    let long = ResolutionRequest { step: Some("é".repeat(10_000)), ..request() };
    let asked = rig.audit.asked(Method::McpConfig, &caller(), &long).unwrap();
    let _: Result<(), _> = asked.told(Err(Refusal::internal()), |()| Outcome::Abandoned);
    rig.round();
    let line: serde_json::Value = serde_json::from_str(&rig.text()).unwrap();
    assert_eq!(line["step"].as_str().unwrap(), "é".repeat(limits::AUDIT_TEXT_BYTES_MAX / 2));
}

#[test]
fn a_resolve_that_is_given_up_leaves_its_record() {
    let mut rig = Rig::new(WhenFull::Drop);
    drop(rig.audit.asked(Method::Resolve, &caller(), &request()).unwrap());
    rig.round();
    assert!(rig.text().ends_with("\"outcome\":\"ABANDONED\"}\n"), "{}", rig.text());
}

#[test]
fn a_full_queue_costs_records_or_calls_as_configured() {
    for (when_full, is_told) in [(WhenFull::Drop, true), (WhenFull::Refuse, false)] {
        let mut rig = Rig::new(when_full);
        let told = record(Method::Resolve, Outcome::Resolved(resolved()));
        let room = limits::AUDIT_QUEUE_ENTRIES / limits::AUDIT_QUEUE_SHARDS;
        assert!((0..room).all(|_| rig.note(&told)));
        assert_eq!(rig.note(&told), is_told, "{when_full}");
        assert!(rig.shows(&format!("credway_audit_records_lost_total {}", u8::from(is_told))));
        rig.round();
        assert!(rig.note(&told), "there is room again");
        let no = record(Method::Resolve, Outcome::refused(&Refusal::internal()));
        assert!(rig.note(&no));
    }
}

/// What `path` leads to, changed in one step.
fn lead(path: &Path, to: &Path) {
    let next = path.with_extension("next");
    std::os::unix::fs::symlink(to, &next).unwrap();
    fs::rename(&next, path).unwrap();
}

#[test]
fn a_full_disk_is_noticed_and_heals_and_what_waited_is_written() {
    for when_full in [WhenFull::Drop, WhenFull::Refuse] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        lead(&file, Path::new("/dev/full"));
        let mut rig = Rig::at(file, when_full, dir);
        assert_eq!(rig.call(), Ok(()), "nobody knows yet");
        rig.round();
        assert!(rig.shows("credway_audit_failing 1") && rig.shows("credway_audit_write_errors_total 1"));
        match when_full {
            WhenFull::Drop => assert_eq!(rig.call(), Ok(())),
            WhenFull::Refuse => assert_eq!(rig.call().unwrap_err().reason, Reason::AuditUnavailable),
        }
        rig.round();
        lead(&rig.file, &rig.dir.path().join("elsewhere"));
        rig.round();
        assert!(rig.shows("credway_audit_failing 0") && rig.shows("credway_audit_records_lost_total 0"));
        assert_eq!(rig.text().lines().count(), if when_full == WhenFull::Drop { 2 } else { 1 });
        assert_eq!(rig.call(), Ok(()));
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_known_from_the_first_call_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("later/audit.jsonl");
    let mut rig = Rig::at(file, WhenFull::Refuse, dir);
    assert_eq!(rig.call().unwrap_err().reason, Reason::AuditUnavailable);
    fs::create_dir(rig.dir.path().join("later")).unwrap();
    rig.round();
    assert_eq!(rig.call(), Ok(()));
}

#[test]
fn what_waits_for_a_disk_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    lead(&file, Path::new("/dev/full"));
    let mut rig = Rig::at(file, WhenFull::Drop, dir);
    while rig.shows("credway_audit_records_lost_total 0") {
        (0..5000).for_each(|_| rig.call().unwrap());
        rig.round();
    }
    let waiting = rig.writer.waiting_bytes();
    assert!((limits::AUDIT_WAITING_BYTES_MAX..limits::AUDIT_WAITING_BYTES_MAX + 4096).contains(&waiting), "{waiting}");
}

#[test]
fn a_full_file_becomes_its_predecessor_of_which_one_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut file = RecordFile::new(path.clone(), 10);
    for text in ["one\n", "two\n", "three\n", "four\n", "longer than a file\n", "five\n"] {
        file.append(text.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "five\n");
    assert_eq!(fs::read_to_string(dir.path().join("audit.jsonl.1")).unwrap(), "longer than a file\n");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
}

#[test]
fn two_daemons_write_to_one_file_and_neither_loses_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut both = [RecordFile::new(path.clone(), 1000), RecordFile::new(path.clone(), 1000)];
    let mut lines = 0;
    while !dir.path().join("audit.jsonl.1").exists() {
        both[lines % 2].append(b"a line\n").unwrap();
        lines += 1;
    }
    both[lines % 2].append(b"a line\n").unwrap();
    let written = [path.clone(), path.with_extension("jsonl.1")].map(|path| fs::read_to_string(path).unwrap());
    assert_eq!(written.concat().lines().filter(|line| *line == "a line").count(), lines + 1);
    assert_eq!(written[0].lines().count(), 2, "both go on in the new file");
}

#[test]
fn a_file_that_others_moved_is_followed_by_a_new_one_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("audit.jsonl"), dir.path().join("moved"));
    let mut file = RecordFile::new(path.clone(), 1000);
    file.append(b"one\n").unwrap();
    fs::rename(&path, &moved).unwrap();
    file.append(b"two\n").unwrap();
    assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_line_that_was_torn_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "whole\nto").unwrap();
    RecordFile::new(path.clone(), 1000).append(b"next\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nto\nnext\n");
}

#[test]
fn what_was_told_is_noted_as_in_use_whether_or_not_there_is_a_file() {
    let rig = Rig::new(WhenFull::Drop);
    let clock = Clock::Manual(rig.clock.clone());
    for audit in [rig.audit.clone(), Audit::of(clock.clone(), None)] {
        for outcome in [Outcome::Resolved(resolved()), Outcome::Abandoned, Outcome::Resolved(resolved())] {
            rig.clock.advance(Duration::from_secs(7));
            let asked = audit.asked(Method::Resolve, &caller(), &request()).unwrap();
            asked.told(Ok(()), |()| outcome).unwrap();
        }
        let mut taken = audit.uses().credentials.take();
        taken.sort_by_key(|(told, _)| told.connection);
        let used = |id| Use {
            connection: ConnectionId::from_bytes([id; 16]),
            secret_version: 8,
            instance: InstanceId::from_bytes([4; 16]),
        };
        assert_eq!(taken, [(used(0xa), clock.moment()), (used(0xb), clock.moment())]);
        assert!(audit.uses().credentials.take().is_empty());
    }
}

#[test]
fn an_answer_that_is_told_again_and_again_is_noted_now_and_then() {
    let clock = ManualClock::at("2026-11-22T14:47:00Z".parse().unwrap());
    let (noted, moment) = (LastNoted::default(), || Clock::Manual(clock.clone()).moment());
    let mut times = 0;
    for _ in 0..1000 {
        times += usize::from(noted.is_due(moment()));
        clock.advance(Duration::from_millis(10));
    }
    assert_eq!(times, 10);
}
