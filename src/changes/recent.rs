//! The memory of recent changes: when each thing changed last, as far back as there is room.

use std::collections::{HashMap, VecDeque};

use crate::limits;
use crate::model::id::{ConnectionId, InstanceId, ProfileId, ProjectId, ServerId, TenantId, TokenId};
use crate::store::{ChangeRecord, Entity};

/// Something whose change outdates what was made from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    One(Entity, Box<str>),
    Workflow(ProjectId, Box<str>),
    /// The set of a tenant's instances, and what they are called: for what was found by a name or a URL.
    AnyInstance(TenantId),
    /// The set of servers, and their URLs.
    AnyServer,
}

macro_rules! subject_of {
    ($($name:ident($id:ty) => $entity:ident),+ $(,)?) => {
        $(pub fn $name(id: $id) -> Self {
            Self::One(Entity::$entity, id.to_string().into())
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

    /// What a line of the change log says has changed.
    pub(super) fn of(record: &ChangeRecord) -> impl Iterator<Item = Self> {
        let one = match (record.entity, record.project) {
            (Entity::Workflow, Some(project)) => Self::Workflow(project, record.id.as_str().into()),
            (entity, _) => Self::One(entity, record.id.as_str().into()),
        };
        let set = match record.entity {
            Entity::Instance | Entity::Project => Some(Self::AnyInstance(record.tenant)),
            Entity::Server => Some(Self::AnyServer),
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
        self.order.push_back((tick, subject.clone()));
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

    pub(super) fn are_unchanged(&self, since: u64, subjects: &[Subject]) -> bool {
        since >= self.floor && subjects.iter().all(|subject| self.last.get(subject).is_none_or(|tick| *tick <= since))
    }

    /// From `tick` on, nothing read earlier counts as unchanged.
    pub(super) fn forget(&mut self, tick: u64) {
        self.last.clear();
        self.order.clear();
        self.floor = tick;
    }
}
