//! The gate that every request passes: gives it an id, finds out who asks, checks the rule of
//! the method and the rates, counts it, and makes one form of every refusal.
//!
//! What has no rule is refused. A handler that panics becomes an internal error of its request
//! alone.

use std::{
    net::{IpAddr, Ipv6Addr},
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use fairmazon_model::{
    DomainError, ErrorKind,
    access::{CredentialKind, Role},
};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request, Response};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{
    access::{Access, Answered, Rules},
    auth,
    context::{Context, Ending},
    limits::{Buckets, Uses},
    metrics::Metrics,
    peers::{Owners, Peer},
    request_id::RequestId,
    status,
};
use crate::core::Engine;

/// What all requests share.
pub(crate) struct Gate {
    pub(crate) engine: Engine,
    pub(crate) rules: Rules,
    pub(crate) uses: Arc<Uses>,
    pub(crate) addresses: Buckets<IpAddr>,
    pub(crate) owners: Owners,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ending: Ending,
    /// How long a call may take until it is answered.
    pub(crate) call_time: Duration,
}

impl Gate {
    /// Decides on a request; the context is none for what needs no credential.
    fn admit(&self, request: &Request<Body>, id: RequestId) -> Admission {
        let Some(rule) = self.rules.of(request.uri().path()) else {
            let error = DomainError::new(ErrorKind::NotFound, "there is no such method")
                .advise("use a client of the same major version as the platform");
            // Not the path: anybody could fill the metrics with names.
            return Admission { method: "unknown", within: None, outcome: Err(error) };
        };
        let outcome = match rule.access {
            Access::Public => self.of_address(request).map(|()| None),
            Access::Roles(_) | Access::JoinedHosts => {
                self.of_credential(request, id).and_then(|(context, kind)| {
                    if !rule.allows(Some(context.caller.role)) {
                        Err(forbidden(rule.method, context.caller.role))
                    } else if !rule.takes(kind) {
                        Err(not_joined(rule.method))
                    } else {
                        Ok(Some(context))
                    }
                })
            }
        };
        let within = match rule.answered {
            Answered::Soon => Some(self.call_time),
            Answered::AtItsEnd => None,
        };
        Admission { method: rule.method, within, outcome }
    }

    fn of_credential(
        &self,
        request: &Request<Body>,
        request_id: RequestId,
    ) -> Result<(Context, CredentialKind), DomainError> {
        let peer = request.extensions().get::<Peer>();
        let shown = auth::shown(request.headers(), peer.and_then(Peer::certificate));
        let known = shown.and_then(|shown| Ok((auth::check(&self.engine, &shown)?, shown)));
        let (known, shown) = known.or_else(|error| {
            // Guessing is as expensive as what needs no credential.
            self.of_address(request)?;
            Err(error)
        })?;
        let became_known = peer.map(|peer| peer.becomes_known(&self.owners, &known.caller));
        let used = self.uses.request(known.credential, Instant::now())?;
        became_known.transpose()?;
        // A revocation since the check has ended what the credential had in use then, and not
        // what was just made.
        if let Err(error) = auth::check(&self.engine, &shown) {
            self.uses.end(known.credential);
            return Err(error);
        }
        let context = Context {
            caller: known.caller,
            request_id,
            ends_at: known.ends_at,
            used,
            uses: self.uses.clone(),
            ending: self.ending.clone(),
        };
        Ok((context, shown.kind()))
    }

    fn of_address(&self, request: &Request<Body>) -> Result<(), DomainError> {
        let from = request.extensions().get::<Peer>().map(Peer::origin);
        let from = from.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        self.addresses.take(from, Instant::now())
    }

    /// Counts an answer and brings it into its last form.
    fn let_out(&self, call: &Call, mut response: Response<Body>) -> Response<Body> {
        let made = response.extensions().get::<Status>();
        let code = made.map_or(Code::Ok, Status::code);
        if let Some(foreign) = made.filter(|made| !status::is_own(made)) {
            let own = status::of(&status::foreign(foreign, call.method), call.id);
            response = own.into_http();
        }
        let code = response.extensions().get::<Status>().map_or(code, Status::code);
        let seconds = call.begun.elapsed().as_secs_f64();
        self.metrics.call(call.method, code, seconds);
        tracing::debug!(
            request_id = %call.id, method = call.method, ?code, milliseconds = seconds * 1e3, "call"
        );
        if let Ok(id) = HeaderValue::try_from(call.id.to_string()) {
            response.headers_mut().insert("request-id", id);
        }
        response
    }
}

struct Admission {
    method: &'static str,
    /// How long it may take; none for as long as it needs.
    within: Option<Duration>,
    outcome: Result<Option<Context>, DomainError>,
}

struct Call {
    id: RequestId,
    method: &'static str,
    begun: Instant,
}

fn name(method: &str) -> &str {
    method.rsplit('/').next().unwrap_or(method)
}

fn forbidden(method: &str, role: Role) -> DomainError {
    let (role, name) = (auth::role_name(role), name(method));
    let text = format!("a credential with the role {role} may not call {name}");
    DomainError::new(ErrorKind::Forbidden, text).advise("use a credential with another role")
}

fn not_joined(method: &str) -> DomainError {
    let name = name(method);
    let text = format!("the token of a host joins it and nothing more: it may not call {name}");
    DomainError::new(ErrorKind::Forbidden, text).advise(
        "join with it by `fairmazon host join`, and show the certificate that the host gets",
    )
}

fn too_slow(method: &str, within: Duration) -> DomainError {
    let seconds = within.as_secs();
    DomainError::new(ErrorKind::Unavailable, format!("no answer came within {seconds} seconds"))
        .advise("repeat it")
        .for_operator(format!("{method} has not answered in time"))
}

/// Puts the gate before all services.
#[derive(Clone)]
pub(crate) struct GateLayer(pub(crate) Arc<Gate>);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.0.clone(), inner }
    }
}

/// Services behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error: Send> + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let gate = self.gate.clone();
        let (id, begun) = (RequestId(gate.engine.request_number()), Instant::now());
        let Admission { method, within, outcome } = gate.admit(&request, id);
        let call = Call { id, method, begun };
        match outcome {
            Err(error) => {
                let refusal = status::of(&error, id).into_http();
                std::future::ready(Ok(gate.let_out(&call, refusal))).boxed()
            }
            Ok(context) => {
                if let Some(context) = context {
                    request.extensions_mut().insert(context);
                }
                let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
                async move {
                    let answered = match within {
                        Some(within) => timeout(within, answer).await.map_err(|_| within),
                        None => Ok(answer.await),
                    };
                    let response = match answered {
                        Ok(Ok(response)) => response?,
                        Ok(Err(_panic)) => {
                            let error = DomainError::internal(format!("{method} has panicked"));
                            status::of(&error, id).into_http()
                        }
                        Err(within) => status::of(&too_slow(method, within), id).into_http(),
                    };
                    Ok(gate.let_out(&call, response))
                }
                .boxed()
            }
        }
    }
}
