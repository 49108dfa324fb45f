//! Config profiles, one at a time: made, changed, deleted, and which of them is active.

use std::collections::{BTreeMap, BTreeSet};

use super::check::name_fault;
use super::fit::{self, Candidate};
use super::{Control, ControlError, Mistake, Workspace, expect_version, mistake};
use crate::limits;
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, ProfileId};
use crate::model::overrides::Override;
use crate::model::profile::{ConfigProfile, Wire};
use crate::model::reason::Reason;
use crate::model::refusal::Refusal;
use crate::model::schema::ConfigValue;
use crate::model::wiring::WiredConnection;
use crate::store::{InstanceFound, Once};

/// What a new profile is made from.
#[derive(Clone, Debug, Default)]
pub struct ProfileSpec {
    pub name: String,
    pub values: BTreeMap<String, ConfigValue>,
    pub source_spec: BTreeMap<String, Wire>,
}

/// What is to change of a profile; what is absent stays, and what is given is meant whole.
#[derive(Clone, Debug, Default)]
pub struct ProfilePatch {
    pub name: Option<String>,
    pub values: Option<BTreeMap<String, ConfigValue>>,
    pub source_spec: Option<BTreeMap<String, Wire>>,
}

/// A profile, and the instance that it belongs to.
#[derive(Clone, Debug)]
pub struct ProfileFound {
    pub instance: InstanceFound,
    pub profile: ConfigProfile,
}

impl ProfileFound {
    pub fn is_active(&self) -> bool {
        self.instance.active_profile == Some(self.profile.id)
    }

    /// The required keys that it gives nothing for.
    pub fn missing_keys(&self) -> Vec<&str> {
        self.profile.missing_keys(&self.instance.head.config_schema)
    }

    pub(super) fn label(&self) -> String {
        format!("profile {}/{}", self.instance.head.name, self.profile.name)
    }
}

impl Control {
    /// Makes a profile of an instance. It is not active yet.
    pub async fn profile_create(
        &self,
        workspace: &Workspace,
        instance: &str,
        spec: ProfileSpec,
        once: Option<&Once>,
    ) -> Result<ProfileFound, ControlError> {
        if let Some(made) = self.made_before(once).await? {
            return self.profile_get(workspace, instance, &made).await;
        }
        let instance = self.instance_get(workspace, instance).await?;
        let mut profile = ConfigProfile {
            id: ProfileId::generate(),
            name: String::new(),
            values: BTreeMap::new(),
            source_spec: BTreeMap::new(),
            version: 1,
        };
        let ProfileSpec { name, values, source_spec } = spec;
        let patch = ProfilePatch { name: Some(name), values: Some(values), source_spec: Some(source_spec) };
        self.patched(workspace, &instance, &mut profile, patch).await?;
        if self.store.profiles_count(instance.head.id).await? >= limits::PROFILES_PER_INSTANCE_MAX {
            let most = format!("{} profiles", limits::PROFILES_PER_INSTANCE_MAX);
            return Err(ControlError::Full { what: format!("instance {}", instance.head.name), most });
        }
        let mut tx = self.begin().await?;
        if let Some(once) = once {
            tx.once_insert(once, &profile.id.to_string()).await?;
        }
        tx.profile_insert(&workspace.project, instance.head.id, &profile).await?;
        tx.commit().await?;
        Ok(ProfileFound { instance, profile })
    }

    /// Some profiles of an instance, in the order in which they were made.
    pub async fn profile_page(
        &self,
        workspace: &Workspace,
        instance: &str,
        after: Option<ProfileId>,
        limit: usize,
    ) -> Result<Vec<ProfileFound>, ControlError> {
        let instance = self.instance_get(workspace, instance).await?;
        let profiles = self.store.profiles_page(workspace.project.id, instance.head.id, after, limit).await?;
        Ok(profiles.into_iter().map(|profile| ProfileFound { instance: instance.clone(), profile }).collect())
    }

    /// The profile of this id or name.
    pub async fn profile_get(
        &self,
        workspace: &Workspace,
        instance: &str,
        asked: &str,
    ) -> Result<ProfileFound, ControlError> {
        let instance = self.instance_get(workspace, instance).await?;
        let found = self.store.profile_get(workspace.project.id, instance.head.id, asked).await?;
        let profile = found.ok_or_else(|| not_found(&instance, asked))?;
        Ok(ProfileFound { instance, profile })
    }

    /// Changes a profile, if it is at the version that is expected.
    pub async fn profile_patch(
        &self,
        workspace: &Workspace,
        instance: &str,
        asked: &str,
        expected: Option<u64>,
        patch: ProfilePatch,
    ) -> Result<ProfileFound, ControlError> {
        let mut found = self.profile_get(workspace, instance, asked).await?;
        expect_version(|| found.label(), found.profile.version, expected)?;
        let before: BTreeSet<String> = found.missing_keys().into_iter().map(str::to_owned).collect();
        let wired_before = found.profile.source_spec.clone();
        self.patched(workspace, &found.instance, &mut found.profile, patch).await?;
        let lost: Vec<&str> = found.missing_keys().into_iter().filter(|key| !before.contains(*key)).collect();
        // What lacked a key before, because its server asks for more now, may be brought nearer to what it asks for.
        if found.is_active() && !lost.is_empty() {
            return Err(Refusal::config_incomplete(&found.instance.head, &found.profile.name, &lost).into());
        }
        self.profile_write(workspace, found, &wired_before, expected).await
    }

    /// Writes what a profile was made into. The active one is not wired so that overrides of its instance cease to fit; one that
    /// lacks required keys must not have become active meanwhile.
    pub(super) async fn profile_write(
        &self,
        workspace: &Workspace,
        mut found: ProfileFound,
        wired_before: &BTreeMap<String, Wire>,
        expected: Option<u64>,
    ) -> Result<ProfileFound, ControlError> {
        if found.is_active() && found.profile.source_spec != *wired_before {
            self.overrides_fit(workspace, &found, Some(wired_before)).await?;
        }
        let stays_inactive = !found.is_active() && !found.missing_keys().is_empty();
        let write = async {
            let mut tx = self.begin().await?;
            tx.profile_update(&workspace.project, &found.profile).await?;
            if stays_inactive {
                tx.profile_inactive(&found.profile).await?;
            }
            tx.commit().await
        };
        if let Err(error) = write.await {
            return Err(self.profile_raced(workspace, &found, expected, error.into()).await);
        }
        found.profile.version += 1;
        Ok(found)
    }

    /// Deletes a profile that is not the active one.
    pub async fn profile_delete(
        &self,
        workspace: &Workspace,
        instance: &str,
        asked: &str,
        expected: Option<u64>,
    ) -> Result<(), ControlError> {
        let found = self.profile_get(workspace, instance, asked).await?;
        expect_version(|| found.label(), found.profile.version, expected)?;
        if found.is_active() {
            let by = vec![format!("instance {}, whose active profile it is", found.instance.head.name)];
            return Err(ControlError::InUse { what: found.label(), by });
        }
        let mut tx = self.begin().await?;
        let deleted = match tx.profile_delete(&workspace.project, &found.profile).await {
            Ok(()) => tx.commit().await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => Ok(()),
            Err(error) => Err(self.profile_raced(workspace, &found, expected, error.into()).await),
        }
    }

    /// Makes a profile the active one, if resolutions can be made of it.
    pub async fn profile_set_active(
        &self,
        workspace: &Workspace,
        instance: &str,
        asked: &str,
        expected: Option<u64>,
    ) -> Result<ProfileFound, ControlError> {
        let mut found = self.profile_get(workspace, instance, asked).await?;
        expect_version(|| found.label(), found.profile.version, expected)?;
        if found.is_active() {
            return Ok(found);
        }
        self.may_be_active(workspace, &found).await?;
        let (id, profile) = (found.instance.head.id, found.profile.id);
        let write = async {
            let mut tx = self.begin().await?;
            tx.instance_set_active(&workspace.project, id, Some(profile)).await?;
            tx.profile_unchanged(&found.profile).await?;
            tx.commit().await
        };
        if let Err(error) = write.await {
            return Err(self.profile_raced(workspace, &found, expected, error.into()).await);
        }
        found.instance.active_profile = Some(profile);
        found.instance.version += 1;
        Ok(found)
    }

    /// Rules 4 and 7 as far as they depend on what is written: every required key is fed, by connections that are there and
    /// offer what is asked of them, overridden ones included.
    async fn may_be_active(&self, workspace: &Workspace, found: &ProfileFound) -> Result<(), ControlError> {
        let ProfileFound { instance: InstanceFound { head, .. }, profile } = found;
        let missing = found.missing_keys();
        if !missing.is_empty() {
            return Err(Refusal::config_incomplete(head, &profile.name, &missing).into());
        }
        let ids: BTreeSet<ConnectionId> = profile.source_spec.values().map(|wire| wire.connection).collect();
        let connections = self.connections_of(workspace, ids).await?;
        for wire in profile.source_spec.values() {
            let held = connections.get(&wire.connection);
            let wired = WiredConnection { id: wire.connection, name: held.map(|held| held.name.as_str()) };
            let Some(held) = held else { return Err(Refusal::connection_missing(head, &wired).into()) };
            if !held.fields.contains(&wire.credential) {
                return Err(Refusal::field_missing(head, &wired, &[&wire.credential]).into());
            }
        }
        self.overrides_fit(workspace, found, None).await
    }

    /// Every override of the instance offers what the profile's wires ask of it; where others are wired until now, those that
    /// did not fit them need not fit these.
    async fn overrides_fit(
        &self,
        workspace: &Workspace,
        found: &ProfileFound,
        wired_before: Option<&BTreeMap<String, Wire>>,
    ) -> Result<(), ControlError> {
        let ProfileFound { instance: InstanceFound { head, .. }, profile } = found;
        let most = limits::OVERRIDES_LOOKED_AT_MAX;
        let overrides = self.store.overrides_of_instance(workspace.project.id, head.id, most).await?;
        let ids: BTreeSet<ConnectionId> = overrides.iter().map(|(_, rule)| rule.connection).collect();
        let connections = self.connections_of(workspace, ids).await?;
        let mut by_workflow: BTreeMap<&str, Vec<Override>> = BTreeMap::new();
        for (workflow, rule) in &overrides {
            by_workflow.entry(workflow).or_default().push(rule.clone());
        }
        for rules in by_workflow.values() {
            for rule in rules {
                // One that is not there any more is refused with CONNECTION_MISSING, whichever profile is active.
                let Some(held) = connections.get(&rule.connection) else { continue };
                let lacking = |wires: &BTreeMap<String, Wire>| -> BTreeSet<String> {
                    let asked = fit::asked(rule, rules, wires).into_iter();
                    asked.filter(|field| !held.fields.contains(*field)).map(str::to_owned).collect()
                };
                let lacks = lacking(&profile.source_spec);
                let lacked = wired_before.map(lacking).unwrap_or_default();
                if !lacks.is_subset(&lacked) {
                    let wired = WiredConnection { id: held.id, name: Some(&held.name) };
                    let lacks: Vec<&str> = lacks.iter().map(String::as_str).collect();
                    return Err(Refusal::override_incompatible(head, &wired, &lacks).into());
                }
            }
        }
        Ok(())
    }

    /// The connections of a project with these ids, as far as there are such.
    pub(super) async fn connections_of(
        &self,
        workspace: &Workspace,
        ids: BTreeSet<ConnectionId>,
    ) -> Result<BTreeMap<ConnectionId, Connection>, ControlError> {
        let found = self.store.connections_of(workspace.project.id, &ids).await?;
        Ok(found.into_iter().map(|connection| (connection.id, connection)).collect())
    }

    /// Makes of a profile what `patch` says, if its parts fit.
    async fn patched(
        &self,
        workspace: &Workspace,
        instance: &InstanceFound,
        profile: &mut ConfigProfile,
        patch: ProfilePatch,
    ) -> Result<(), ControlError> {
        let schema = &instance.head.config_schema;
        let mut mistakes = Vec::new();
        if let Some(name) = patch.name {
            mistakes.extend(name_fault(&name).map(|fault| mistake("name", fault)));
            profile.name = name;
        }
        if let Some(values) = patch.values {
            profile.values.clear();
            for (key, value) in values {
                match fit::value(&key, &value, schema) {
                    Ok(value) => drop(profile.values.insert(key, value)),
                    Err(reason) => mistakes.push(mistake(place("values", &key), reason)),
                }
            }
        }
        if let Some(spec) = patch.source_spec {
            let ids = spec.values().map(|wire| wire.connection).collect();
            let connections = self.connections_of(workspace, ids).await?;
            for (key, wire) in &spec {
                // A wire that stands is not held against what became of its connection meanwhile.
                if profile.source_spec.get(key) == Some(wire) {
                    continue;
                }
                mistakes.extend(wire_mistakes(key, wire, connections.get(&wire.connection), instance));
            }
            profile.source_spec = spec;
        }
        if mistakes.is_empty() { Ok(()) } else { Err(ControlError::Mistakes(mistakes)) }
    }

    /// Who named a version is told of the one that came between.
    async fn profile_raced(
        &self,
        workspace: &Workspace,
        seen: &ProfileFound,
        expected: Option<u64>,
        error: ControlError,
    ) -> ControlError {
        if expected.is_none() || !matches!(error, ControlError::ChangedMeanwhile { .. }) {
            return error;
        }
        let (instance, profile) = (seen.instance.head.id.to_string(), seen.profile.id.to_string());
        match self.profile_get(workspace, &instance, &profile).await {
            Ok(now) if now.profile.version != seen.profile.version => {
                ControlError::OtherVersion { what: now.label(), version: now.profile.version }
            }
            Ok(_) => error,
            Err(gone) => gone,
        }
    }
}

fn wire_mistakes(key: &str, wire: &Wire, connection: Option<&Connection>, instance: &InstanceFound) -> Vec<Mistake> {
    let at = place("source_spec", key);
    let Some(connection) = connection else {
        let reason = format!("there is no connection {}", wire.connection);
        let place = format!("{at}/connection_id");
        return vec![Mistake { place, code: Some(Reason::ConnectionMissing), reason }];
    };
    let faults = fit::wire(key, &wire.credential, &Candidate::from(connection), &instance.head.config_schema);
    faults.into_iter().map(|reason| mistake(at.clone(), reason)).collect()
}

/// Where a body has what belongs to a key: the rest of a JSON pointer.
fn place(group: &str, key: &str) -> String {
    format!("{group}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn not_found(instance: &InstanceFound, asked: &str) -> ControlError {
    let what = format!("config profile {asked:?} of instance {}", instance.head.name);
    ControlError::NotFound { what, hint: String::new() }
}
