//! The memory of recent changes: when each thing changed last, as far back as there is room.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::limits;
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId, TokenId};
use crate::store::{ChangeRecord, Entity};

/// Something whose change outdates what was made from it. Only its hash is kept, as answers hold many: two that share one outdate
/// each other's for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject(u64);

/// What a subject may be.
#[derive(Hash)]
enum Kind<'a> {
    One(Entity, &'a str),
    Secret(ConnectionId),
    Workflow(ProjectId, &'a str),
    AnyInstance(TenantId),
    AnyServer,
}

macro_rules! subject_of {
    ($($name:ident($id:ty) => $entity:ident),+ $(,)?) => {
        $(pub fn $name(id: $id) -> Self {
            Self::hashed(&Kind::One(Entity::$entity, &id.to_string()))
        })+
    };
}

impl Subject {
    subject_of! {
        tenant(TenantId) => Tenant,
        project(ProjectId) => Project,
        connection(ConnectionId) => Connection,
        server(ServerId) => Server,
        instance(InstanceId) => Instance,
        profile(ProfileId) => Profile,
        token(TokenId) => Token,
    }

    /// The secret of a connection, apart from how the connection itself is.
    pub fn secret(of: ConnectionId) -> Self {
        Self::hashed(&Kind::Secret(of))
    }

    pub fn workflow(project: ProjectId, name: &str) -> Self {
        Self::hashed(&Kind::Workflow(project, name))
    }

    /// The set of a tenant's instances, and what they are called: for what was found by a name or a URL.
    pub fn any_instance(of: TenantId) -> Self {
        Self::hashed(&Kind::AnyInstance(of))
    }

    /// The set of servers, and their URLs.
    pub fn any_server() -> Self {
        Self::hashed(&Kind::AnyServer)
    }

    fn hashed(kind: &Kind<'_>) -> Self {
        let mut hasher = DefaultHasher::new();
        kind.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// What a line of the change log says has changed.
    pub(super) fn of(record: &ChangeRecord) -> impl Iterator<Item = Self> {
        let one = match (record.entity, record.project) {
            (Entity::Workflow, Some(project)) => Self::workflow(project, &record.id),
            (entity, _) => Self::hashed(&Kind::One(entity, &record.id)),
        };
        let set = match record.entity {
            Entity::Instance | Entity::Project => Some(Self::any_instance(record.tenant)),
            Entity::Server => Some(Self::any_server()),
            _ => None,
        };
        [Some(one), set].into_iter().flatten()
    }
}

/// When each subject changed last. What changed before `floor` is forgotten, and so is that it did not.
#[derive(Debug, Default)]
pub(super) struct Recent {
    last: HashMap<Subject, u64>,
    order: VecDeque<(u64, Subject)>,
    floor: u64,
}

impl Recent {
    pub(super) fn note(&mut self, subject: Subject, tick: u64) {
        self.order.push_back((tick, subject));
        self.last.insert(subject, tick);
        if self.order.len() > limits::CHANGES_REMEMBERED
            && let Some((oldest, subject)) = self.order.pop_front()
        {
            self.floor = oldest;
            if self.last.get(&subject) == Some(&oldest) {
                self.last.remove(&subject);
            }
        }
    }

    pub(super) fn are_unchanged(&self, since: u64, subjects: impl IntoIterator<Item = Subject>) -> bool {
        let mut subjects = subjects.into_iter();
        since >= self.floor && subjects.all(|subject| self.last.get(&subject).is_none_or(|tick| *tick <= since))
    }

    /// From `tick` on, nothing read earlier counts as unchanged.
    pub(super) fn forget(&mut self, tick: u64) {
        self.last.clear();
        self.order.clear();
        self.floor = tick;
    }
}
