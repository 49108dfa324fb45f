//! Instances, and their profiles with the wiring of credentials.

use std::collections::BTreeMap;

use super::records::{Act, Entity, InstanceRecord, ProjectRecord};
use super::rows::{counted, from_json, parsed, parsed_optional, stored_version, to_json};
use super::tx::execute;
use super::{StoreError, Tx};
use crate::model::id::{InstanceId, ProfileId};
use crate::model::profile::{ConfigProfile, Wire};

/// Only of the platform's servers and the tenant's own.
const INSTANCE_INSERT: &str =
    "INSERT INTO instances (id, tenant_id, project_id, name, server_id, active_profile_id, created_at)
    SELECT $1, $2, $3, $4, s.id, $6, $7 FROM servers s WHERE s.id = $5 AND (s.tenant_id = $2 OR s.tenant_id IS NULL)";
const INSTANCE_SET_ACTIVE: &str = "UPDATE instances SET active_profile_id = $3
    WHERE id = $1 AND project_id = $2
        AND ($3 IS NULL OR EXISTS (SELECT 1 FROM profiles f WHERE f.id = $3 AND f.instance_id = $1))";
const PROFILE_INSERT: &str =
    "INSERT INTO profiles (id, instance_id, name, config_values, version, created_at, updated_at)
    SELECT $1, i.id, $4, $5, 1, $6, $6 FROM instances i WHERE i.id = $2 AND i.project_id = $3";
const PROFILE_UPDATE: &str = "UPDATE profiles SET name = $3, config_values = $4, version = version + 1, updated_at = $5
    WHERE id = $1 AND version = $6 AND instance_id IN (SELECT i.id FROM instances i WHERE i.project_id = $2)";
const WIRES_DELETE: &str = "DELETE FROM profile_wires WHERE profile_id = $1";
const WIRE_INSERT: &str =
    "INSERT INTO profile_wires (profile_id, config_key, connection_id, credential) VALUES ($1, $2, $3, $4)";

pub(super) const INSTANCES_OF_PROJECT: &str =
    "SELECT id, name, server_id, active_profile_id FROM instances WHERE project_id = $1 ORDER BY id";
pub(super) const PROFILES_OF_PROJECT: &str = "SELECT f.id, f.instance_id, f.name, f.config_values, f.version
    FROM profiles f JOIN instances i ON i.id = f.instance_id WHERE i.project_id = $1 ORDER BY f.id";
pub(super) const WIRES_OF_PROJECT: &str = "SELECT x.profile_id, x.config_key, x.connection_id, x.credential
    FROM profile_wires x JOIN profiles f ON f.id = x.profile_id JOIN instances i ON i.id = f.instance_id
    WHERE i.project_id = $1";

/// Columns of `INSTANCES_OF_PROJECT`.
pub(super) type InstanceRow = (String, String, String, Option<String>);
/// Columns of `PROFILES_OF_PROJECT`.
pub(super) type ProfileRow = (String, String, String, String, i64);
/// Columns of `WIRES_OF_PROJECT`.
pub(super) type WireRow = (String, String, String, String);

pub(super) fn instance((id, name, server, active): InstanceRow) -> Result<InstanceRecord, StoreError> {
    Ok(InstanceRecord {
        id: parsed("instances.id", &id)?,
        name: parsed("instances.name", &name)?,
        server: parsed("instances.server_id", &server)?,
        active_profile: parsed_optional("instances.active_profile_id", active.as_deref())?,
    })
}

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

impl Tx {
    pub async fn instance_insert(
        &mut self,
        project: &ProjectRecord,
        instance: &InstanceRecord,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let label = || format!("instance {:?}", instance.name);
        let inserted = execute!(
            self,
            sqlx::query(INSTANCE_INSERT)
                .bind(instance.id.to_string())
                .bind(project.tenant.to_string())
                .bind(project.id.to_string())
                .bind(instance.name.as_str())
                .bind(instance.server.to_string())
                .bind(instance.active_profile.map(|id| id.to_string()))
                .bind(self.now.as_microsecond())
        );
        if inserted.map_err(|error| error.about(label))? == 0 {
            return Err(StoreError::Conflict { what: format!("the server of {}", label()) });
        }
        self.project_change(sequence, project, Act::Create, Entity::Instance, instance.id).await
    }

    /// Makes another profile of the instance the active one, or none; `Conflict` if it has no such profile.
    pub async fn instance_set_active(
        &mut self,
        project: &ProjectRecord,
        instance: InstanceId,
        profile: Option<ProfileId>,
    ) -> Result<(), StoreError> {
        let sequence = self.sequence_next().await?;
        let set = execute!(
            self,
            sqlx::query(INSTANCE_SET_ACTIVE)
                .bind(instance.to_string())
                .bind(project.id.to_string())
                .bind(profile.map(|id| id.to_string()))
        )?;
        if set == 0 {
            return Err(StoreError::Conflict { what: format!("instance {instance} or its profile") });
        }
        self.project_change(sequence, project, Act::Update, Entity::Instance, instance).await
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
