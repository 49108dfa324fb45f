//! The data plane's wire: the only place that knows protobuf. Turns calls into requests of `resolve`, and answers into bytes.

pub mod admission;
pub mod answers;
mod convert;
mod deadline;
pub mod hot;
pub mod listen;
pub mod service;
mod status;
pub mod watch;

/// The generated messages, client and server of `proto/credway/v1`.
#[expect(clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("credway.v1");

    /// The proto as compiled: what server reflection shows.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("credway_descriptor");
}

impl std::fmt::Debug for proto::ConfigEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigEntry").field("key", &self.key).finish_non_exhaustive()
    }
}
