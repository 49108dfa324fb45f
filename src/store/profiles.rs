//! Config profiles, each with its wires: which credential feeds which config key.

use std::collections::BTreeMap;

use super::records::{Act, Entity, ProjectRecord};
use super::rows::{counted, from_json, parsed, stored_version, to_json};
use super::tx::{execute, in_tx};
use super::{Store, StoreError, Tx, read};
use crate::model::id::{InstanceId, ProfileId, ProjectId};
use crate::model::profile::{ConfigProfile, Wire};

const PROFILE_INSERT: &str =
    "INSERT INTO profiles (id, instance_id, name, config_values, version, created_at, updated_at)
    SELECT $1, i.id, $4, $5, 1, $6, $6 FROM instances i WHERE i.id = $2 AND i.project_id = $3";
const PROFILE_UPDATE: &str = "UPDATE profiles SET name = $3, config_values = $4, version = version + 1, updated_at = $5
    WHERE id = $1 AND version = $6
        AND EXISTS (SELECT 1 FROM instances i WHERE i.id = profiles.instance_id AND i.project_id = $2)";
/// Never the active one.
const PROFILE_DELETE: &str = "DELETE FROM profiles WHERE id = $1 AND version = $3
        AND EXISTS (SELECT 1 FROM instances i WHERE i.id = profiles.instance_id AND i.project_id = $2
            AND (i.active_profile_id IS NULL OR i.active_profile_id <> $1))";
const PROFILE_AT: &str = "SELECT COUNT(*) FROM profiles WHERE id = $1 AND version = $2";
const PROFILE_ACTIVE: &str = "SELECT COUNT(*) FROM instances WHERE active_profile_id = $1";
const WIRES_DELETE: &str = "DELETE FROM profile_wires WHERE profile_id = $1";
const WIRE_INSERT: &str =
    "INSERT INTO profile_wires (profile_id, config_key, connection_id, credential) VALUES ($1, $2, $3, $4)";

const WIRES_OF_INSTANCE_DELETE: &str =
    "DELETE FROM profile_wires WHERE profile_id IN (SELECT id FROM profiles WHERE instance_id = $1)";
const PROFILES_OF_INSTANCE_DELETE: &str = "DELETE FROM profiles WHERE instance_id = $1 RETURNING id";

pub(super) const PROFILES_OF_PROJECT: &str = "SELECT f.id, f.instance_id, f.name, f.config_values, f.version
    FROM profiles f JOIN instances i ON i.id = f.instance_id WHERE i.project_id = $1 ORDER BY f.id";
pub(super) const WIRES_OF_PROJECT: &str = "SELECT x.profile_id, x.config_key, x.connection_id, x.credential
    FROM profile_wires x JOIN profiles f ON f.id = x.profile_id JOIN instances i ON i.id = f.instance_id
    WHERE i.project_id = $1";

/// A row for each wire, in one statement: a profile with the wires of another version of it must never be seen.
macro_rules! wired_profiles {
    ($which:literal) => {
        concat!(
            "SELECT f.id, f.name, f.config_values, f.version, x.config_key, x.connection_id, x.credential
            FROM profiles f LEFT JOIN profile_wires x ON x.profile_id = f.id WHERE f.id IN (
                SELECT g.id FROM profiles g JOIN instances i ON i.id = g.instance_id
                WHERE i.project_id = $1 AND g.instance_id = $2 AND ",
            $which,
            ") ORDER BY f.id"
        )
    };
}

const PROFILE_GET: &str = wired_profiles!("(g.id = $3 OR g.name = $3) ORDER BY g.id = $3 DESC LIMIT 1");
const PROFILES_PAGE: &str = wired_profiles!("g.id > $3 ORDER BY g.id LIMIT $4");
const PROFILES_COUNT: &str = "SELECT COUNT(*) FROM profiles WHERE instance_id = $1";

/// Columns of `PROFILES_OF_PROJECT`.
pub(super) type ProfileRow = (String, String, String, String, i64);
/// Columns of `WIRES_OF_PROJECT`.
pub(super) type WireRow = (String, String, String, String);

/// Profiles with their instances and wires.
pub(super) fn profiles(
    rows: Vec<ProfileRow>,
    wires: Vec<WireRow>,
) -> Result<Vec<(InstanceId, ConfigProfile)>, StoreError> {
    let mut specs: BTreeMap<String, BTreeMap<String, Wire>> = BTreeMap::new();
    for (profile, key, connection, credential) in wires {
        let wire = Wire { connection: parsed("profile_wires.connection_id", &connection)?, credential };
        specs.entry(profile).or_default().insert(key, wire);
    }
    let profile = |(id, instance, name, values, version): ProfileRow| {
        let profile = ConfigProfile {
            id: parsed("profiles.id", &id)?,
            name,
            values: from_json("profiles.config_values", &values)?,
            source_spec: specs.remove(&id).unwrap_or_default(),
            version: counted("profiles.version", version)?,
        };
        Ok((parsed("profiles.instance_id", &instance)?, profile))
    };
    rows.into_iter().map(profile).collect()
}

/// Columns of `wired_profiles!`.
type WiredRow = (String, String, String, i64, Option<String>, Option<String>, Option<String>);

fn wired_profiles(rows: Vec<WiredRow>) -> Result<Vec<ConfigProfile>, StoreError> {
    let mut profiles: Vec<ConfigProfile> = Vec::new();
    for (id, name, values, version, key, connection, credential) in rows {
        let id = parsed("profiles.id", &id)?;
        if profiles.last().is_none_or(|last| last.id != id) {
            profiles.push(ConfigProfile {
                id,
                name,
                values: from_json("profiles.config_values", &values)?,
                source_spec: BTreeMap::new(),
                version: counted("profiles.version", version)?,
            });
        }
        if let (Some(profile), Some(key), Some(connection), Some(credential)) =
            (profiles.last_mut(), key, connection, credential)
        {
            let connection = parsed("profile_wires.connection_id", &connection)?;
            profile.source_spec.insert(key, Wire { connection, credential });
        }
    }
    Ok(profiles)
}

impl Store {
    /// The profile of an instance of the project that has this id or this name.
    pub async fn profile_get(
        &self,
        project: ProjectId,
        instance: InstanceId,
        asked: &str,
    ) -> Result<Option<ConfigProfile>, StoreError> {
        if asked.contains('\0') {
            return Ok(None);
        }
        let rows: Vec<WiredRow> = read!(self, |connection| {
            sqlx::query_as(PROFILE_GET)
                .bind(project.to_string())
                .bind(instance.to_string())
                .bind(asked)
                .fetch_all(connection)
        })?;
        Ok(wired_profiles(rows)?.pop())
    }

    /// At most `limit` profiles of an instance of the project, in the order in which they were made.
    pub async fn profiles_page(
        &self,
        project: ProjectId,
        instance: InstanceId,
        after: Option<ProfileId>,
        limit: usize,
    ) -> Result<Vec<ConfigProfile>, StoreError> {
        let rows: Vec<WiredRow> = read!(self, |connection| {
            sqlx::query_as(PROFILES_PAGE)
                .bind(project.to_string())
                .bind(instance.to_string())
                .bind(after.map_or_else(String::new, |id| id.to_string()))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
        })?;
        wired_profiles(rows)
    }

    /// How many profiles an instance has.
    pub async fn profiles_count(&self, instance: InstanceId) -> Result<i64, StoreError> {
        read!(self, |connection| sqlx::query_scalar(PROFILES_COUNT).bind(instance.to_string()).fetch_one(connection))
    }
}

impl Tx {
    /// Deletes the profiles of an instance. For operations that hold the log's head already.
    pub(super) async fn profiles_of_instance_delete(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
    ) -> Result<(), StoreError> {
        let instance = instance.to_string();
        execute!(self, sqlx::query(WIRES_OF_INSTANCE_DELETE).bind(&instance))?;
        let profiles: Vec<String> = in_tx!(self, |connection| {
            sqlx::query_scalar(PROFILES_OF_INSTANCE_DELETE).bind(&instance).fetch_all(connection)
        })?;
        for profile in profiles {
            let sequence = self.sequence_next().await?;
            self.project_change(sequence, project, Act::Delete, Entity::Profile, profile).await?;
        }
        Ok(())
    }

    /// Deletes a profile; `Conflict` if it is not at `version`, or is the active one.
    pub async fn profile_delete(&mut self, project: &ProjectRecord, profile: &ConfigProfile) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let id = profile.id.to_string();
        execute!(self, sqlx::query(WIRES_DELETE).bind(&id))?;
        let deleted = execute!(
            self,
            sqlx::query(PROFILE_DELETE).bind(&id).bind(project.id.to_string()).bind(stored_version(profile.version))
        )?;
        if deleted == 0 {
            return Err(StoreError::Conflict { what: label(profile) });
        }
        self.project_change(sequence, project, Act::Delete, Entity::Profile, profile.id).await
    }

    /// Inserts a profile at version 1.
    pub async fn profile_insert(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        profile: &ConfigProfile,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let values = to_json("profiles.config_values", &profile.values)?;
        let inserted = execute!(
            self,
            sqlx::query(PROFILE_INSERT)
                .bind(profile.id.to_string())
                .bind(instance.to_string())
                .bind(project.id.to_string())
                .bind(&profile.name)
                .bind(&values)
                .bind(self.now.as_microsecond())
        );
        if inserted.map_err(|error| error.about(|| label(profile)))? == 0 {
            return Err(StoreError::Conflict { what: format!("the instance of {}", label(profile)) });
        }
        self.wires_insert(profile).await?;
        self.project_change(sequence, project, Act::Create, Entity::Profile, profile.id).await
    }

    /// Writes a profile as the version after `profile.version`; `Conflict` if it is no longer at that one.
    pub async fn profile_update(&mut self, project: &ProjectRecord, profile: &ConfigProfile) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let values = to_json("profiles.config_values", &profile.values)?;
        let updated = execute!(
            self,
            sqlx::query(PROFILE_UPDATE)
                .bind(profile.id.to_string())
                .bind(project.id.to_string())
                .bind(&profile.name)
                .bind(&values)
                .bind(self.now.as_microsecond())
                .bind(stored_version(profile.version))
        );
        if updated.map_err(|error| error.about(|| label(profile)))? == 0 {
            return Err(StoreError::Conflict { what: label(profile) });
        }
        execute!(self, sqlx::query(WIRES_DELETE).bind(profile.id.to_string()))?;
        self.wires_insert(profile).await?;
        self.project_change(sequence, project, Act::Update, Entity::Profile, profile.id).await
    }

    /// `Conflict` if a profile is no longer as it was read. For what holds the log's head already, so that it stays so.
    pub async fn profile_unchanged(&mut self, profile: &ConfigProfile) -> Result<(), StoreError> {
        let (id, version) = (profile.id.to_string(), stored_version(profile.version));
        let found: i64 = in_tx!(self, |connection| {
            sqlx::query_scalar(PROFILE_AT).bind(&id).bind(version).fetch_one(connection)
        })?;
        if found == 0 { Err(StoreError::Conflict { what: label(profile) }) } else { Ok(()) }
    }

    /// `Conflict` if a profile has become the active one. For what holds the log's head already.
    pub async fn profile_inactive(&mut self, profile: &ConfigProfile) -> Result<(), StoreError> {
        let id = profile.id.to_string();
        let active: i64 =
            in_tx!(self, |connection| sqlx::query_scalar(PROFILE_ACTIVE).bind(&id).fetch_one(connection))?;
        if active > 0 { Err(StoreError::Conflict { what: label(profile) }) } else { Ok(()) }
    }

    async fn wires_insert(&mut self, profile: &ConfigProfile) -> Result<(), StoreError> {
        for (key, wire) in &profile.source_spec {
            execute!(
                self,
                sqlx::query(WIRE_INSERT)
                    .bind(profile.id.to_string())
                    .bind(key)
                    .bind(wire.connection.to_string())
                    .bind(&wire.credential)
            )?;
        }
        Ok(())
    }
}

fn label(profile: &ConfigProfile) -> String {
    format!("profile {:?}", profile.name)
}
