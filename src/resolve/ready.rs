//! Whether an instance would resolve, told from its wiring alone: no secret is read for it.

use super::materialise;
use super::plan;
use super::trail::Silent;
use crate::limits;
use crate::model::refusal::Refusal;
use crate::model::resolution::{InstanceRef, ResolutionRequest};
use crate::model::wiring::Wiring;

/// The refusal that a resolution outside of any workflow would meet, as far as it does not lie in the secrets.
pub fn check(wiring: &Wiring) -> Result<(), Refusal> {
    let request = ResolutionRequest {
        project: None,
        workflow: None,
        instance: InstanceRef::Id(wiring.instance.id),
        expected_server: None,
        step: None,
        min_token_ttl: limits::MIN_TOKEN_TTL_DEFAULT,
    };
    let planned = plan::plan(wiring, &request, &mut Silent)?;
    materialise::foresee(wiring, &planned)
}
