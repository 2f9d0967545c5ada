//! `POST /introspect` (RFC 7662): is this token good now, and what may its account do.
//!
//! A refused token is `{"active":false}` and nothing else, so that nobody learns from the answer which tokens exist;
//! the reason is counted and, at debug level, logged without the token.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, FromRequest, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use super::access::{Access, Callers, NOT_PERMITTED, ReviewError};
use super::check::{Active, Check, NotActive};
use super::discovery::under_issuer;
use crate::api::{GROUP, Permission};
use crate::config::IssuerUrl;
use crate::metrics::Metrics;

/// A form with one token; the strict verifier refuses tokens of more than half of this.
const BODY_LIMIT: usize = 16 * 1024;

/// What the endpoint needs.
pub struct Introspection {
    /// Who may ask.
    pub callers: Callers,
    /// The online check.
    pub check: Arc<Check>,
    /// Where answers are counted.
    pub metrics: Arc<Metrics>,
}

/// `/introspect`, also under the path of the issuer.
pub fn routes(issuer: &IssuerUrl, introspection: Introspection) -> Router {
    let paths = under_issuer(issuer, "/introspect");
    let routes = paths.iter().fold(Router::new(), |routes, path| routes.route(path, post(introspect)));
    routes.layer(DefaultBodyLimit::max(BODY_LIMIT)).with_state(Arc::new(introspection))
}

async fn introspect(State(state): State<Arc<Introspection>>, request: Request) -> Response {
    let (result, answer) = match state.answer(request).await {
        Ok(active) => ("Active", (StatusCode::OK, Json(active)).into_response()),
        Err(denied) => (denied.result(), denied.into_response()),
    };
    tracing::debug!(result, "introspected");
    state.metrics.introspected(result);
    ([(CACHE_CONTROL, "no-store")], answer).into_response()
}

impl Introspection {
    async fn answer(&self, request: Request) -> Result<Value, Denied> {
        // The caller first: a stranger learns nothing from how the form is judged.
        let bearer = bearer(request.headers())?;
        match self.callers.access(&bearer).await {
            Ok(Access::Allowed) => {}
            Ok(Access::Forbidden) => return Err(Denied::Forbidden),
            Ok(Access::Unauthenticated) => return Err(Denied::Unauthenticated { shown: true }),
            Err(ReviewError(NOT_PERMITTED)) => return Err(Denied::NoReviews),
            Err(_) => return Err(Denied::Unavailable),
        }
        let token = token(request).await?;
        match self.check.check(&token).await {
            Ok(active) => Ok(describe(&active)),
            Err(NotActive::Refused(refusal)) => Err(Denied::Inactive(refusal.reason())),
            Err(NotActive::Unavailable(_)) => Err(Denied::Unavailable),
        }
    }
}

/// The caller's credentials (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<String, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).into_iter();
    let value = values.next().ok_or(Denied::Unauthenticated { shown: false })?;
    if values.next().is_some() {
        return Err(Denied::Invalid(StatusCode::BAD_REQUEST, "more than one Authorization header"));
    }
    let credentials = value.to_str().ok().and_then(|text| text.split_once(' '));
    match credentials {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") && !token.trim().is_empty() => {
            Ok(token.trim().to_owned())
        }
        _ => Err(Denied::Unauthenticated { shown: false }),
    }
}

/// The form's `token`. `token_type_hint` and unknown parameters are ignored; a parameter must not come twice (RFC 6749,
/// section 3.1).
async fn token(request: Request) -> Result<String, Denied> {
    let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
    let Form(fields) = form.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Denied::Invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/x-www-form-urlencoded")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Denied::Invalid(StatusCode::PAYLOAD_TOO_LARGE, "the form exceeds 16 KiB"),
        _ => Denied::Invalid(StatusCode::BAD_REQUEST, "the form cannot be read"),
    })?;
    let mut tokens = fields.into_iter().filter(|(name, _)| name == "token").map(|(_, value)| value);
    match (tokens.next(), tokens.next()) {
        (Some(token), None) if !token.is_empty() => Ok(token),
        (Some(_), Some(_)) => Err(Denied::Invalid(StatusCode::BAD_REQUEST, "token is given twice")),
        _ => Err(Denied::Invalid(StatusCode::BAD_REQUEST, "token is missing")),
    }
}

/// The members of an active answer (RFC 7662, section 2.2; `authorization_details`: RFC 9396, section 9.2).
fn describe(active: &Active) -> Value {
    let claims = &active.verified.claims;
    json!({
        "active": true,
        "iss": claims.iss,
        "sub": claims.sub,
        "username": claims.sub,
        "client_id": claims.client_id,
        "aud": claims.aud,
        "iat": claims.iat,
        "exp": active.ends_at().as_unix(),
        "jti": claims.jti,
        "token_type": "Bearer",
        "authorization_details": active.account.spec.permissions.iter().map(permission).collect::<Vec<_>>(),
    })
}

fn permission(permission: &Permission) -> Value {
    json!({
        "type": format!("{GROUP}/permission"),
        "resource_fqn": permission.resource_fqn,
        "resource_type": permission.resource_type,
        "role_id": permission.role_id,
    })
}

/// Every answer but an active one.
enum Denied {
    Inactive(&'static str),
    Unauthenticated { shown: bool },
    Forbidden,
    Invalid(StatusCode, &'static str),
    NoReviews,
    Unavailable,
}

impl Denied {
    fn result(&self) -> &'static str {
        match self {
            Self::Inactive(reason) => reason,
            Self::Unauthenticated { .. } => "Unauthenticated",
            Self::Forbidden => "Forbidden",
            Self::Invalid(..) => "InvalidRequest",
            Self::NoReviews => "NotPermitted",
            Self::Unavailable => "Unavailable",
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let error = |code: &str, description: &str| Json(json!({"error": code, "error_description": description}));
        match self {
            Self::Inactive(_) => Json(json!({"active": false})).into_response(),
            // RFC 6750, section 3.1: no error code for a request without credentials.
            Self::Unauthenticated { shown: false } => {
                let body = error("invalid_client", "send a Kubernetes token: Authorization: Bearer <token>");
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], body).into_response()
            }
            Self::Unauthenticated { shown: true } => {
                let body = error("invalid_token", "the bearer token is not valid in this cluster");
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")], body).into_response()
            }
            Self::Forbidden => {
                let need = format!("the caller needs the verb create on introspections.{GROUP}");
                let challenge = [(WWW_AUTHENTICATE, "Bearer error=\"insufficient_scope\"")];
                (StatusCode::FORBIDDEN, challenge, error("insufficient_scope", &need)).into_response()
            }
            Self::Invalid(status, description) => (status, error("invalid_request", description)).into_response(),
            // Without Retry-After: only an administrator can help.
            Self::NoReviews => {
                (StatusCode::SERVICE_UNAVAILABLE, error("temporarily_unavailable", NOT_PERMITTED)).into_response()
            }
            Self::Unavailable => {
                let body = error("temporarily_unavailable", "the token could not be checked; try again");
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], body).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use axum::body::{Body, to_bytes};
    use axum::http::header::CONTENT_TYPE;
    use axum::http::request::Builder;
    use tower::ServiceExt;

    use super::super::access::tests::FakeReviews;
    use super::super::check::tests::{World, account, edited, entry, token};
    use super::*;
    use crate::api::{Entry, Instant, Phase};
    use crate::token::fixtures;

    const FORM: &str = "application/x-www-form-urlencoded";

    struct Answer {
        status: StatusCode,
        headers: HeaderMap,
        body: Value,
        metrics: String,
    }

    fn request(bearer: &str) -> Builder {
        Request::post("/introspect").header(AUTHORIZATION, format!("Bearer {bearer}")).header(CONTENT_TYPE, FORM)
    }

    async fn send(world: &Arc<World>, request: Request) -> Answer {
        let metrics = Arc::new(Metrics::new(Instant::from_unix(1)));
        let introspection = Introspection {
            callers: Callers::new(Arc::new(FakeReviews::default())),
            check: Arc::new(world.check()),
            metrics: Arc::clone(&metrics),
        };
        let answer =
            routes(&"https://issuer.example/a".parse().unwrap(), introspection).oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, body, metrics: metrics.text().unwrap() }
    }

    async fn ask(world: &Arc<World>, entry: &Entry) -> Answer {
        let form = format!("token_type_hint=access_token&token={}", token(entry));
        send(world, request("good").body(Body::from(form)).unwrap()).await
    }

    fn good() -> Arc<World> {
        World::of(&account("1", &[entry()]))
    }

    #[tokio::test]
    async fn an_active_token_is_described() {
        let answer = ask(&good(), &entry()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
        assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
        assert_eq!(
            answer.body,
            json!({
                "active": true,
                "iss": "https://issuer.example",
                "sub": "va:payments:invoice-reader",
                "username": "va:payments:invoice-reader",
                "client_id": "va:payments:invoice-reader",
                "aud": "https://api.example",
                "iat": fixtures::at(-60).as_unix(),
                "exp": fixtures::at(3_600).as_unix(),
                "jti": entry().id,
                "token_type": "Bearer",
                "authorization_details": [{
                    "type": "virtualaccounts.dev/permission",
                    "resource_fqn": "orders",
                    "resource_type": "table",
                    "role_id": "reader",
                }],
            })
        );
        assert!(answer.metrics.contains("introspections_total{result=\"Active\"} 1"));
    }

    #[tokio::test]
    async fn a_superseded_token_ends_with_its_grace() {
        for (grace_ends, end) in [(60, 60), (9_999, 3_600)] {
            let entry = Entry { phase: Phase::Superseded, grace_ends_at: Some(fixtures::at(grace_ends)), ..entry() };
            let world = World::of(&account("1", std::slice::from_ref(&entry)));
            assert_eq!(ask(&world, &entry).await.body["exp"], fixtures::at(end).as_unix());
            world.now.store(end - 1, Ordering::SeqCst);
            assert_eq!(ask(&world, &entry).await.body["active"], true);
            world.now.store(end, Ordering::SeqCst);
            assert_eq!(ask(&world, &entry).await.body, json!({"active": false}));
        }
    }

    #[tokio::test]
    async fn inactive_says_nothing_else_whatever_the_reason() {
        let revoked = Entry { phase: Phase::Revoked, ..entry() };
        let disabled = edited("1", &[entry()], |account| account["spec"]["disabled"] = json!(true));
        for (world, reason) in [
            (World::of(&account("1", &[])), "NotInLedger"),
            (World::of(&account("1", &[revoked])), "Revoked"),
            (World::of(&disabled), "AccountDisabled"),
            (Arc::new(World::default()), "AccountUnknown"),
        ] {
            let answer = ask(&world, &entry()).await;
            assert_eq!((answer.status, answer.body), (StatusCode::OK, json!({"active": false})), "{reason}");
            assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
            let counted = format!("introspections_total{{result=\"{reason}\"}} 1");
            assert!(answer.metrics.contains(&counted), "{}", answer.metrics);
        }
        let garbage = send(&good(), request("good").body(Body::from("token=a.b.c")).unwrap()).await;
        assert_eq!((garbage.status, garbage.body), (StatusCode::OK, json!({"active": false})));
    }

    #[tokio::test]
    async fn strangers_are_turned_away() {
        let form = || Body::from(format!("token={}", token(&entry())));
        let bare = Request::post("/introspect").header(CONTENT_TYPE, FORM);
        let basic = Request::post("/introspect").header(CONTENT_TYPE, FORM).header(AUTHORIZATION, "Basic Z29vZDo=");
        for (request, status, challenge) in [
            (bare.body(form()).unwrap(), StatusCode::UNAUTHORIZED, "Bearer"),
            (basic.body(form()).unwrap(), StatusCode::UNAUTHORIZED, "Bearer"),
            (request("").body(form()).unwrap(), StatusCode::UNAUTHORIZED, "Bearer"),
            (request("bad").body(form()).unwrap(), StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\""),
            (request("weak").body(form()).unwrap(), StatusCode::FORBIDDEN, "Bearer error=\"insufficient_scope\""),
        ] {
            let answer = send(&good(), request).await;
            assert_eq!((answer.status, &answer.headers[WWW_AUTHENTICATE]), (status, &challenge.parse().unwrap()));
            assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
            assert!(answer.body["error"].is_string() && answer.body.get("active").is_none());
        }
        let twice = request("good").header(AUTHORIZATION, "Bearer good").body(form()).unwrap();
        assert_eq!(send(&good(), twice).await.status, StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn forms_are_judged_as_the_standards_say() {
        for (kind, body, status) in [
            (FORM, String::new(), StatusCode::BAD_REQUEST),
            (FORM, "token=".into(), StatusCode::BAD_REQUEST),
            (FORM, "tokens=a".into(), StatusCode::BAD_REQUEST),
            (FORM, "token=a&token=b".into(), StatusCode::BAD_REQUEST),
            (FORM, format!("token={}", "a".repeat(BODY_LIMIT)), StatusCode::PAYLOAD_TOO_LARGE),
            ("application/json", "{\"token\":\"a\"}".into(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ] {
            let asked = Request::post("/introspect").header(AUTHORIZATION, "bearer good").header(CONTENT_TYPE, kind);
            let answer = send(&good(), asked.body(Body::from(body)).unwrap()).await;
            assert_eq!((answer.status, &answer.body["error"]), (status, &json!("invalid_request")));
        }
        let read = Request::get("/introspect?token=a").body(Body::empty()).unwrap();
        assert_eq!(send(&good(), read).await.status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn what_cannot_be_checked_is_not_inactive() {
        let down = good();
        down.silent.store(true, Ordering::SeqCst);
        down.down.store(true, Ordering::SeqCst);
        let skewed = good();
        skewed.skewed.store(true, Ordering::SeqCst);
        for world in [down, skewed] {
            let answer = ask(&world, &entry()).await;
            assert_eq!(
                (answer.status, &answer.headers[RETRY_AFTER]),
                (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
            );
            assert!(answer.metrics.contains("result=\"Unavailable\"} 1"));
        }
        let denied = send(&good(), request("powerless").body(Body::from("token=a")).unwrap()).await;
        assert_eq!((denied.status, denied.headers.get(RETRY_AFTER)), (StatusCode::SERVICE_UNAVAILABLE, None));
        assert!(denied.body.to_string().contains("bind ClusterRole system:auth-delegator"), "{}", denied.body);
        assert!(denied.metrics.contains("result=\"NotPermitted\"} 1"));
        let no_review = request("down").body(Body::from("token=a")).unwrap();
        assert_eq!(send(&good(), no_review).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn the_issuers_path_is_served_too() {
        let form = Body::from(format!("token={}", token(&entry())));
        let mut asked = request("good").body(form).unwrap();
        *asked.uri_mut() = "/a/introspect".parse().unwrap();
        assert_eq!(send(&good(), asked).await.body["active"], true);
    }
}
