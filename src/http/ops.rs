//! The ops listener: is the process alive, may it get traffic, and its metrics.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::Metrics;

/// Whether the process may get traffic; if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/healthz`, `/readyz` and `/metrics`.
pub fn routes(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(readiness()) }))
        .route("/metrics", get(move || async move { scrape(&metrics) }))
}

fn ready(readiness: Result<(), String>) -> Response {
    match readiness {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

fn scrape(metrics: &Metrics) -> Response {
    match metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::api::Instant;

    async fn get(readiness: Result<(), String>, path: &str) -> (StatusCode, Option<String>, String) {
        let routes = routes(Arc::new(move || readiness.clone()), Arc::new(Metrics::new(Instant::from_unix(1))));
        let answer = routes.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let kind = answer.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_does_not_depend_on_readiness() {
        assert_eq!(get(Err("no cache".into()), "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        assert_eq!(get(Ok(()), "/readyz").await.0, StatusCode::OK);
        let (status, _, body) = get(Err("caches are not synced".into()), "/readyz").await;
        assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: caches are not synced\n"));
    }

    #[tokio::test]
    async fn metrics_are_openmetrics() {
        let (status, kind, body) = get(Ok(()), "/metrics").await;
        assert_eq!((status, kind.as_deref()), (StatusCode::OK, Some(OPENMETRICS)));
        assert!(body.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        assert_eq!(get(Ok(()), "/").await.0, StatusCode::NOT_FOUND);
        assert_eq!(get(Ok(()), "/introspect").await.0, StatusCode::NOT_FOUND);
    }
}
