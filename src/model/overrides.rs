//! Overrides: for one workflow, or one step of it, another connection than the profile's own.

use super::id::{ConnectionId, InstanceId};

/// "Where this instance uses a connection, use this one instead."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub instance: InstanceId,
    /// The step it is limited to; `None` for the whole workflow.
    pub step: Option<String>,
    /// The only connection it replaces; `None` for whichever the profile wires.
    pub replaces: Option<ConnectionId>,
    pub connection: ConnectionId,
}

/// The override that decides for a key wired to `wired`, of those of one workflow and instance.
///
/// A step's override beats the workflow's, and among those of one level the one that names `wired` beats the general one.
pub fn deciding<'a>(overrides: &'a [Override], step: Option<&str>, wired: ConnectionId) -> Option<&'a Override> {
    let applies = |o: &&Override| {
        (o.step.is_none() || o.step.as_deref() == step) && (o.replaces.is_none() || o.replaces == Some(wired))
    };
    overrides.iter().filter(applies).max_by_key(|o| (o.step.is_some(), o.replaces.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_beats_workflow_and_named_beats_general() {
        let (wired, other) = (ConnectionId::generate(), ConnectionId::generate());
        let instance = InstanceId::generate();
        let rule = |step: Option<&str>, replaces| Override {
            instance,
            step: step.map(str::to_owned),
            replaces,
            connection: ConnectionId::generate(),
        };
        let workflow = rule(None, None);
        let workflow_named = rule(None, Some(wired));
        let step = rule(Some("charge"), None);
        let step_named = rule(Some("charge"), Some(wired));
        let foreign_step = rule(Some("refund"), Some(wired));
        let foreign_named = rule(Some("charge"), Some(other));
        let table = [
            (vec![&foreign_step, &foreign_named], None),
            (vec![&workflow, &foreign_step], Some(&workflow)),
            (vec![&workflow, &workflow_named], Some(&workflow_named)),
            (vec![&workflow_named, &step, &workflow], Some(&step)),
            (vec![&step_named, &step, &workflow_named], Some(&step_named)),
        ];
        for (set, expected) in table {
            let set: Vec<Override> = set.into_iter().cloned().collect();
            assert_eq!(deciding(&set, Some("charge"), wired), expected);
        }
    }

    #[test]
    fn a_step_override_needs_its_step() {
        let wired = ConnectionId::generate();
        let only = Override {
            instance: InstanceId::generate(),
            step: Some("charge".into()),
            replaces: None,
            connection: ConnectionId::generate(),
        };
        assert_eq!(deciding(std::slice::from_ref(&only), None, wired), None);
    }
}
