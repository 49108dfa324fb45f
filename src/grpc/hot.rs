//! The way of a warm `ResolveCredentials`: from its bytes to the bytes of an answer that is held, with nothing in between. All
//! other calls, and those whose answer is not held, go on to the service; what it answers is then held.
//!
//! A warm call waits for nothing but the rest of its message, and for that a moment only, so it needs no place in flight and no
//! other deadline. One that is traced always goes on.

use std::convert::Infallible;
use std::iter::Chain;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{option, vec};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tower::Service;
use tower::util::ServiceExt as _;

use super::admission;
use super::answers::{Answers, MESSAGE_HEAD_BYTES, Question};
use super::listen::{Calls, Peer};
use crate::audit::Audit;
use crate::auth::Authenticator;
use crate::clock::{Clock, Moment};
use crate::limits;
use crate::metrics::{Metrics, Tier};

const RESOLVE: &str = "/credway.v1.CredentialService/ResolveCredentials";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

// Names that are parsed once: by their text each look-up costs as much as half a SHA-256.
static PROJECT: HeaderName = HeaderName::from_static("x-project-id");
static TRACE: HeaderName = HeaderName::from_static("traceparent");

/// Requests longer than this are asked anew each time: an honest one has some hundred bytes.
const QUESTION_BYTES_MAX: usize = 1024;

/// Answers what is held, and hands on the rest.
pub struct Hot<S>(Arc<Shared<S>>);

struct Shared<S> {
    warm: Warm,
    inner: S,
    /// Where `inner` works: what it waits for belongs to one runtime, whichever the connection is served on.
    runtime: Handle,
}

/// What it takes to answer a warm call.
pub struct Warm {
    pub answers: Answers,
    pub authenticator: Arc<Authenticator>,
    pub audit: Audit,
    pub clock: Clock,
    pub metrics: Metrics,
    /// Whether calls are traced whose callers have not decided.
    pub are_roots_traced: bool,
}

impl Warm {
    /// The question of a call, without its message; `None` if it cannot be answered from memory.
    pub fn question(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Option<Question> {
        if self.are_roots_traced || is_traced(headers) {
            return None;
        }
        let claim = self.authenticator.claim(&admission::evidence(headers, peer))?;
        Some(Question::new(&claim, headers.get(&PROJECT).map(HeaderValue::as_bytes)))
    }

    /// The framed answer to `question`, if it is held and may be told.
    pub fn answer(&self, question: &Question, began: Moment) -> Option<Bytes> {
        let answer = self.answers.get(question, began)?;
        let (framed, ended) = (answer.framed.clone(), self.clock.moment());
        if !self.audit.note(answer, ended) {
            // The service refuses it, and says why.
            return None;
        }
        self.metrics.resolve_finished(None, Tier::Memory, ended.since(began).as_secs_f64());
        Some(framed)
    }
}

/// Whether the caller wants a trace of this call (W3C trace context, flag `sampled`).
fn is_traced(headers: &HeaderMap) -> bool {
    headers.get(&TRACE).is_some_and(|value| !value.as_bytes().ends_with(b"-00"))
}

impl<S> Hot<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    /// Puts itself before `inner`, which works on the runtime that this is called on.
    pub fn before(warm: Warm, inner: S) -> Self {
        Self(Arc::new(Shared { warm, inner, runtime: Handle::current() }))
    }

    /// What the service answers. A caller who goes away takes the call along.
    fn ask(&self, mut request: Request<Body>, peer: Peer) -> Asking {
        request.extensions_mut().insert(peer);
        let asked = self.0.inner.clone().oneshot(request);
        let asked = AbortOnDropHandle::new(self.0.runtime.spawn(asked));
        Box::pin(async move {
            match asked.await {
                Ok(Ok(response)) => response,
                // It panicked, or the daemon ends.
                Err(_) => tonic::Status::internal("the call was given up").into_http(),
            }
        })
    }
}

impl<S> Clone for Hot<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Calls for Hot<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Answering = Answering<S>;

    fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answering<S> {
        let (head, body) = request.into_parts();
        let is_resolve = head.uri.path() == RESOLVE
            && head.method == Method::POST
            && head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()));
        let question = if is_resolve { self.0.warm.question(&head.headers, Some(peer)) } else { None };
        match question {
            Some(question) => {
                let call = Some(Call { head, body, read: Frames::default(), peer: peer.clone(), question });
                Answering::Reading { hot: self.clone(), call, patience: None }
            }
            None => Answering::Asking(self.ask(Request::from_parts(head, Body::new(body)), peer.clone())),
        }
    }
}

type Asking = BoxFuture<'static, Response<Body>>;

/// An answer in the making.
#[expect(clippy::large_enum_variant, reason = "the large one is the hot one")]
pub enum Answering<S> {
    /// The message is still to be read.
    Reading {
        hot: Hot<S>,
        call: Option<Call>,
        /// How long the rest of the message is waited for, once it did not come at once.
        patience: Option<Pin<Box<Sleep>>>,
    },
    Asking(Asking),
}

/// A call that may be answered from memory.
pub struct Call {
    head: http::request::Parts,
    body: Incoming,
    read: Frames,
    peer: Peer,
    question: Question,
}

impl<S> Future for Answering<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Output = Response<AnswerBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::Reading { hot, call, patience } = &mut *self {
            let reading = call.as_mut().expect("it is taken once, and then this is an asking one");
            if reading.read.fill(&mut reading.body, cx) == Filled::Waiting {
                let patience = patience.get_or_insert_with(|| Box::pin(sleep(limits::WARM_MESSAGE_PATIENCE)));
                if patience.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            let call = call.take().expect("it was there a moment ago");
            match call.find(&hot.0.warm) {
                Found::Held(framed) => return Poll::Ready(held(framed)),
                Found::Nothing(request, peer) => {
                    let asking = hot.ask(request, peer);
                    *self = Self::Asking(asking);
                }
            }
        }
        match &mut *self {
            Self::Asking(asking) => asking.as_mut().poll(cx).map(|response| response.map(AnswerBody::Made)),
            Self::Reading { .. } => unreachable!("it was made an asking one above"),
        }
    }
}

/// What there is for a call in memory.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is returned to")]
enum Found {
    Held(Bytes),
    /// The request as it came.
    Nothing(Request<Body>, Peer),
}

impl Call {
    /// Looks for the answer to what was read of the message.
    fn find(self, warm: &Warm) -> Found {
        let Self { head, body, read, peer, mut question } = self;
        let mut request = Request::from_parts(head, ());
        if let Some(message) = read.plain_message().filter(|_| read.is_whole) {
            question.complete(message);
            if let Some(framed) = warm.answer(&question, warm.clock.moment()) {
                return Found::Held(framed);
            }
            request.extensions_mut().insert(warm.answers.slot(question));
        }
        let body = Replayed { read: read.first.into_iter().chain(read.more), rest: body };
        Found::Nothing(request.map(|()| Body::new(body)), peer)
    }
}

/// The frames of a request so far. Nearly always there is one.
#[derive(Default)]
struct Frames {
    first: Option<Bytes>,
    more: Vec<Bytes>,
    bytes: usize,
    is_whole: bool,
}

/// What reading came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// No more is to be read here.
    Done,
    /// More is to come.
    Waiting,
}

impl Frames {
    /// Takes what has arrived.
    fn fill(&mut self, body: &mut Incoming, cx: &mut Context<'_>) -> Filled {
        while self.bytes <= QUESTION_BYTES_MAX {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { return Filled::Done };
                    self.bytes += data.len();
                    // Some clients, tonic's among them, end with a frame that holds nothing.
                    if !data.is_empty() {
                        self.push(data);
                    }
                    if body.is_end_stream() {
                        self.is_whole = true;
                        return Filled::Done;
                    }
                }
                Poll::Ready(None) => {
                    self.is_whole = true;
                    return Filled::Done;
                }
                Poll::Ready(Some(Err(_))) => return Filled::Done,
                Poll::Pending => return Filled::Waiting,
            }
        }
        Filled::Done
    }

    fn push(&mut self, frame: Bytes) {
        match self.first {
            None => self.first = Some(frame),
            Some(_) => self.more.push(frame),
        }
    }

    /// The message, if it is one, not compressed, in one piece.
    fn plain_message(&self) -> Option<&[u8]> {
        let (Some(frame), []) = (&self.first, &self.more[..]) else { return None };
        let (head, message) = frame.split_at_checked(MESSAGE_HEAD_BYTES)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        (head[0] == 0 && usize::try_from(length).ok()? == message.len()).then_some(message)
    }
}

fn held(framed: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Held(Some(framed), true));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The body of a request whose first frames were read already.
struct Replayed {
    read: Chain<option::IntoIter<Bytes>, vec::IntoIter<Bytes>>,
    rest: Incoming,
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.read.next() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.size_hint().1 == Some(0) && self.rest.is_end_stream()
    }
}

/// The body of an answer: one that was held, with its trailers to come, or one that the service made.
pub enum AnswerBody {
    Held(Option<Bytes>, bool),
    Made(Body),
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match &mut *self {
            Self::Held(framed, has_trailers) => Poll::Ready(match framed.take() {
                Some(framed) => Some(Ok(Frame::data(framed))),
                None => std::mem::take(has_trailers).then(|| Ok(Frame::trailers(success()))),
            }),
            Self::Made(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held(framed, has_trailers) => framed.is_none() && !has_trailers,
            Self::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(framed, _) => SizeHint::with_exact(framed.as_ref().map_or(0, |framed| framed.len() as u64)),
            Self::Made(body) => body.size_hint(),
        }
    }
}

fn success() -> HeaderMap {
    const STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    trailers
}
