//! Who may ask: a caller shows a Kubernetes token, the API server says who that is (TokenReview) and whether they may
//! `create introspections.virtualaccounts.dev` (SubjectAccessReview). Answers are kept for a few seconds, so that a busy
//! service costs the API server next to nothing; a withdrawn permission therefore works that much later.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::future::Cache;
use tokio::sync::Semaphore;

use crate::api::GROUP;

/// How long an answer about a caller is used, be it yes or no.
const KEPT: Duration = Duration::from_secs(10);
/// Callers remembered; each costs about 100 bytes.
const CALLERS: u64 = 10_000;
/// Reviews under way at the same time. Anybody can send garbage tokens; they must not become a load on the API server.
const REVIEWS: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Ask about any token.
    Allowed,
    /// Nothing: known, but without the permission.
    Forbidden,
    /// Nothing: the token is not valid in this cluster.
    Unauthenticated,
}

/// The API server did not say who a caller is, or what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot review the caller: {0}")]
pub struct ReviewError(pub &'static str);

/// A [`ReviewError`] that lasts: with Roles alone the operator cannot ask who a caller is.
pub const NOT_PERMITTED: &str = "the operator may not create reviews; apply its RBAC, or bind ClusterRole system:auth-delegator to its ServiceAccount";

/// The two questions to the API server.
pub trait Reviews: Send + Sync {
    /// Whose token it is; none if it is nobody's.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<UserInfo>, ReviewError>>;
    /// Whether that user may ask about tokens.
    fn may_introspect(&self, user: UserInfo) -> BoxFuture<'_, Result<bool, ReviewError>>;
}

/// The callers seen in the last seconds.
pub struct Callers {
    reviews: Arc<dyn Reviews>,
    // By the SHA-256 of the caller's token, so that the tokens themselves are not kept.
    known: Cache<[u8; 32], Access>,
    slots: Semaphore,
}

impl Callers {
    /// Nobody is known yet.
    pub fn new(reviews: Arc<dyn Reviews>) -> Self {
        let known = Cache::builder().max_capacity(CALLERS).time_to_live(KEPT).build();
        Self { reviews, known, slots: Semaphore::new(REVIEWS) }
    }

    /// What the bearer of this token may do. Requests of one caller at the same time cost one review; failures are not
    /// remembered.
    pub async fn access(&self, token: &str) -> Result<Access, ReviewError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        self.known.try_get_with(key, self.review(token)).await.map_err(|error| *error)
    }

    async fn review(&self, token: &str) -> Result<Access, ReviewError> {
        let _slot = self.slots.try_acquire().map_err(|_| ReviewError("too many callers at once"))?;
        let answer = tokio::time::timeout(TIMEOUT, async {
            let Some(user) = self.reviews.authenticate(token).await? else { return Ok(Access::Unauthenticated) };
            let allowed = self.reviews.may_introspect(user).await?;
            Ok(if allowed { Access::Allowed } else { Access::Forbidden })
        });
        answer.await.unwrap_or(Err(ReviewError("the API server did not answer in time")))
    }
}

/// The reviews of a real API server.
pub struct KubeReviews(pub Client);

impl Reviews for KubeReviews {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<UserInfo>, ReviewError>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
            let review = TokenReview { spec, ..TokenReview::default() };
            let review = Api::<TokenReview>::all(self.0.clone()).create(&PostParams::default(), &review).await;
            let status = review.map_err(|error| failed("TokenReview", &error))?.status.unwrap_or_default();
            Ok(status.user.filter(|_| status.authenticated == Some(true)))
        })
    }

    fn may_introspect(&self, user: UserInfo) -> BoxFuture<'_, Result<bool, ReviewError>> {
        Box::pin(async move {
            let attributes = ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some("introspections".to_owned()),
                verb: Some("create".to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let api = Api::<SubjectAccessReview>::all(self.0.clone());
            let review = api.create(&PostParams::default(), &review).await;
            Ok(review
                .map_err(|error| failed("SubjectAccessReview", &error))?
                .status
                .is_some_and(|status| status.allowed))
        })
    }
}

// The error itself is not printed: the request held the caller's token, and an answer may repeat it.
fn failed(operation: &'static str, error: &kube::Error) -> ReviewError {
    let code = if let kube::Error::Api(status) = error { status.code } else { 0 };
    tracing::warn!(operation, code, "a review of a caller failed");
    match code {
        403 => ReviewError(NOT_PERMITTED),
        _ => ReviewError("the API server did not answer"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// An API server that knows `good` (who may ask) and `weak` (who may not); `down` fails.
    #[derive(Default)]
    pub(in crate::http) struct FakeReviews {
        pub(in crate::http) asked: AtomicUsize,
    }

    impl Reviews for FakeReviews {
        fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<UserInfo>, ReviewError>> {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                let user = |name: &str| UserInfo { username: Some(name.to_owned()), ..UserInfo::default() };
                match token {
                    "down" => Err(ReviewError("down")),
                    "powerless" => Err(ReviewError(NOT_PERMITTED)),
                    "good" | "weak" => Ok(Some(user(token))),
                    "slow" => std::future::pending().await,
                    _ => Ok(None),
                }
            })
        }

        fn may_introspect(&self, user: UserInfo) -> BoxFuture<'_, Result<bool, ReviewError>> {
            Box::pin(async move { Ok(user.username.as_deref() == Some("good")) })
        }
    }

    fn callers() -> (Arc<FakeReviews>, Callers) {
        let reviews = Arc::new(FakeReviews::default());
        (Arc::clone(&reviews), Callers::new(reviews))
    }

    #[tokio::test]
    async fn each_caller_is_reviewed_once() {
        let (reviews, callers) = callers();
        for _ in 0..3 {
            let (one, two) = tokio::join!(callers.access("good"), callers.access("good"));
            assert_eq!((one, two), (Ok(Access::Allowed), Ok(Access::Allowed)));
            assert_eq!(callers.access("weak").await, Ok(Access::Forbidden));
            assert_eq!(callers.access("bad").await, Ok(Access::Unauthenticated));
        }
        assert_eq!(reviews.asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn failures_are_not_remembered() {
        let (reviews, callers) = callers();
        for _ in 0..2 {
            assert_eq!(callers.access("down").await, Err(ReviewError("down")));
        }
        assert_eq!(reviews.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn reviews_at_the_same_time_are_bounded() {
        let (_, callers) = callers();
        let _slots = callers.slots.acquire_many(u32::try_from(REVIEWS).unwrap()).await.unwrap();
        assert_eq!(callers.access("good").await, Err(ReviewError("too many callers at once")));
    }

    /// An API server that answers each review with this status code and body, and keeps what it was sent.
    fn server(code: u16, answer: &'static str) -> (Client, Arc<std::sync::Mutex<Vec<String>>>) {
        let seen = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let sink = Arc::clone(&seen);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let sink = Arc::clone(&sink);
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(axum::body::Body::new(body), 1 << 20).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                sink.lock().unwrap().push(format!("{} {} {body}", parts.method, parts.uri.path()));
                let answer = http::Response::builder().status(code).body(axum::body::Body::from(answer)).unwrap();
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        (Client::new(service, "default"), seen)
    }

    #[tokio::test]
    async fn who_it_is_is_asked_of_the_api_server() {
        let (client, seen) = server(
            201,
            r#"{"spec":{},"status":{"authenticated":true,"user":{"username":"system:serviceaccount:shop:cart"}}}"#,
        );
        let user = KubeReviews(client).authenticate("caller-token").await.unwrap().unwrap();
        assert_eq!(user.username.as_deref(), Some("system:serviceaccount:shop:cart"));
        let seen = seen.lock().unwrap().join("\n");
        assert!(seen.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews "), "{seen}");
        assert!(seen.contains(r#""token":"caller-token""#), "{seen}");

        let (client, _) = server(201, r#"{"spec":{},"status":{"error":"invalid","user":{"username":"x"}}}"#);
        assert_eq!(KubeReviews(client).authenticate("caller-token").await, Ok(None));
    }

    #[tokio::test]
    async fn what_they_may_is_asked_for_the_virtual_resource() {
        let (client, seen) = server(201, r#"{"spec":{},"status":{"allowed":true}}"#);
        let user = UserInfo {
            username: Some("cart".into()),
            groups: Some(vec!["system:authenticated".into()]),
            ..UserInfo::default()
        };
        assert_eq!(KubeReviews(client).may_introspect(user.clone()).await, Ok(true));
        let seen = seen.lock().unwrap().join("\n");
        let attributes = r#"{"group":"virtualaccounts.dev","resource":"introspections","verb":"create"}"#;
        assert!(seen.starts_with("POST /apis/authorization.k8s.io/v1/subjectaccessreviews "), "{seen}");
        assert!(seen.contains(attributes) && seen.contains(r#""groups":["system:authenticated"],"#), "{seen}");

        let (client, _) = server(201, r#"{"spec":{},"status":{"allowed":false}}"#);
        assert_eq!(KubeReviews(client).may_introspect(user).await, Ok(false));
    }

    #[tokio::test]
    async fn a_failed_review_names_the_cure_and_not_the_token() {
        let status = r#"{"kind":"Status","status":"Failure","message":"caller-token","reason":"Forbidden","code":403}"#;
        let (client, _) = server(403, status);
        let error = KubeReviews(client).authenticate("caller-token").await.unwrap_err().to_string();
        assert!(error.contains("RBAC") && !error.contains("caller-token"), "{error}");
    }
}
