//! One call over plain HTTP/2, for what tonic's client hides: it enforces `grpc-timeout` itself, and closes in good order.

use std::time::Duration;

use bytes::Bytes;
use credway::grpc::proto::ResolveCredentialsRequest;
use h2::SendStream;
use h2::client::ResponseFuture;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic_types::pb;

use super::sidecar::Sidecar;

/// A call that was sent. Dropped, its connection is gone.
pub(crate) struct RawCall {
    answer: ResponseFuture,
    /// Open for as long as the message may still come.
    _body: SendStream<Bytes>,
    _connection: AbortOnDropHandle<Result<(), h2::Error>>,
}

impl RawCall {
    /// Sends a call, without a message if there is none: its body then stays open.
    pub(crate) async fn send(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        timeout: Option<&str>,
        token: &str,
        message: Option<&ResolveCredentialsRequest>,
    ) -> Self {
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = http::Request::post("http://localhost/credway.v1.CredentialService/ResolveCredentials")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"));
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        if let Some(message) = message {
            let message = message.encode_to_vec();
            let mut frame = vec![0];
            frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            frame.extend(message);
            body.send_data(frame.into(), true).unwrap();
        }
        Self { answer, _body: body, _connection: connection }
    }

    /// Over the Unix socket.
    pub(crate) async fn to(
        sidecar: &Sidecar,
        timeout: Option<&str>,
        token: &str,
        message: Option<&ResolveCredentialsRequest>,
    ) -> Self {
        let stream = tokio::net::UnixStream::connect(sidecar.addresses().socket.as_ref().unwrap()).await.unwrap();
        Self::send(stream, timeout, token, message).await
    }

    /// Over a TCP connection that is reset when the call is dropped.
    pub(crate) async fn resettable(sidecar: &Sidecar, token: &str, message: &ResolveCredentialsRequest) -> Self {
        let stream = TcpStream::connect(sidecar.addresses().grpc.unwrap()).await.unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        Self::send(stream, None, token, Some(message)).await
    }

    /// Code and details of a refusal, whose status stands in the headers, as it has no body.
    pub(crate) async fn refusal(self) -> (i32, pb::Status) {
        let answer = self.answer.await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let details =
            data_encoding::BASE64_NOPAD.decode(header("grpc-status-details-bin").trim_end_matches('=').as_bytes());
        (header("grpc-status").parse().unwrap(), pb::Status::decode(details.unwrap().as_slice()).unwrap())
    }
}
