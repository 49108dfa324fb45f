//! Resolutions over gRPC: which credential a step gets, and what is told of it.

use credway::clock::Clock;
use credway::grpc::proto::ResolveCredentialsRequest;
use credway::model::caller::Scope;

use crate::support::cast::{ACME, World};

#[tokio::test]
async fn smoke() {
    for world in [World::sqlite(ACME).await, World::postgres_and_openbao(ACME).await] {
        let sidecar = world.sidecar(Clock::System).await;
        let mut client = sidecar.client(&world.token(&[Scope::McpExecute]).await).await;
        let request = ResolveCredentialsRequest { instance_id: "pay".into(), ..Default::default() };
        println!("{:?}", client.resolve_credentials(request).await.unwrap());
        sidecar.stop().await;
    }
}
