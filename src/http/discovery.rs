//! Discovery: OpenID Connect Discovery 1.0, RFC 8414 and the JWKS (RFC 7517), so that any library finds the keys from
//! the issuer URL alone.
//!
//! The documents name only what exists: there is no authorization endpoint, and members of OIDC that a client demands
//! (`response_types_supported`, `subject_types_supported`) have the values that Kubernetes' own issuer has.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tower_http::cors::{Any, CorsLayer};

use crate::config::IssuerUrl;
use crate::token::Algorithm;

/// The JWKS to serve; none while no key ring is known.
pub type Jwks = Arc<dyn Fn() -> Option<Value> + Send + Sync>;

/// Verifiers may keep a document this long. A new key is published 15 minutes before it signs.
const CACHE: &str = "public, max-age=60";
const JSON: &str = "application/json";
const JWK_SET: &str = "application/jwk-set+json";

/// The discovery documents and the JWKS, for any origin. `algorithm` is that of new keys.
pub fn routes(issuer: &IssuerUrl, algorithm: Algorithm, jwks: Jwks) -> Router {
    let source = Arc::clone(&jwks);
    let metadata = {
        let issuer = issuer.clone();
        move |headers: HeaderMap| async move { document(&headers, JSON, &metadata(&issuer, algorithm, source().as_ref())) }
    };
    let keys = move |headers: HeaderMap| async move {
        match jwks() {
            Some(keys) => document(&headers, JWK_SET, &keys),
            None => {
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5"), (CACHE_CONTROL, "no-store")]).into_response()
            }
        }
    };
    let mut routes = Router::new();
    for path in metadata_paths(issuer.path()) {
        routes = routes.route(&path, get(metadata.clone()));
    }
    for path in under_issuer(issuer, "/jwks.json") {
        routes = routes.route(&path, get(keys.clone()));
    }
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::GET, Method::HEAD]).allow_headers(Any);
    routes.layer(cors.expose_headers([ETAG]))
}

/// Where a path is served: at the root, and under the path of the issuer URL if that has one. A proxy in front may or
/// may not strip that path.
pub(super) fn under_issuer(issuer: &IssuerUrl, path: &str) -> BTreeSet<String> {
    [path.to_owned(), format!("{}{path}", issuer.path())].into()
}

/// OIDC puts the well-known name behind the issuer's path, RFC 8414 (section 3.1) before it; clients of either standard
/// ask for both names.
fn metadata_paths(issuer_path: &str) -> BTreeSet<String> {
    ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
        .into_iter()
        .flat_map(|name| [name.to_owned(), format!("{issuer_path}{name}"), format!("{name}{issuer_path}")])
        .collect()
}

fn metadata(issuer: &IssuerUrl, algorithm: Algorithm, jwks: Option<&Value>) -> Value {
    let keys = jwks.and_then(|jwks| jwks["keys"].as_array());
    let mut algorithms: BTreeSet<&str> = keys.into_iter().flatten().filter_map(|key| key["alg"].as_str()).collect();
    algorithms.insert(algorithm.name());
    json!({
        "issuer": issuer.as_str(),
        "jwks_uri": format!("{issuer}/jwks.json"),
        "introspection_endpoint": format!("{issuer}/introspect"),
        // An access token type (RFC 8414 allows these here): callers present a Kubernetes token as Bearer.
        "introspection_endpoint_auth_methods_supported": ["Bearer"],
        "id_token_signing_alg_values_supported": algorithms,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
    })
}

fn document(headers: &HeaderMap, kind: &'static str, value: &Value) -> Response {
    let body = value.to_string();
    let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, body.as_bytes())));
    let caching = [(ETAG, etag.clone()), (CACHE_CONTROL, CACHE.to_owned())];
    if known(headers, &etag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, kind)], body).into_response()
}

/// RFC 9110, section 13.1.2: weak comparison with each listed tag. Our tags have no comma inside.
fn known(headers: &HeaderMap, etag: &str) -> bool {
    let listed = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let mut tags = listed.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    fn served(issuer: &str, jwks: Option<Value>) -> Router {
        routes(&issuer.parse().unwrap(), Algorithm::Es256, Arc::new(move || jwks.clone()))
    }

    fn keys() -> Value {
        json!({"keys": [{"kty": "RSA", "alg": "RS256", "kid": "a"}]})
    }

    async fn send(routes: Router, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
        let answer = routes.oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(routes: Router, path: &str) -> (StatusCode, HeaderMap, Value) {
        send(routes, Request::get(path).body(Body::empty()).unwrap()).await
    }

    #[tokio::test]
    async fn the_document_names_what_exists() {
        let (status, headers, body) =
            get(served("https://va.example.com", Some(keys())), "/.well-known/openid-configuration").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        assert_eq!(headers[CACHE_CONTROL], "public, max-age=60");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(
            body,
            json!({
                "issuer": "https://va.example.com",
                "jwks_uri": "https://va.example.com/jwks.json",
                "introspection_endpoint": "https://va.example.com/introspect",
                "introspection_endpoint_auth_methods_supported": ["Bearer"],
                "id_token_signing_alg_values_supported": ["ES256", "RS256"],
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
            })
        );
    }

    #[tokio::test]
    async fn every_path_of_the_standards_is_served() {
        let issuer = "https://example.com/tenants/a";
        for path in [
            "/.well-known/openid-configuration",
            "/.well-known/oauth-authorization-server",
            "/.well-known/oauth-authorization-server/tenants/a",
            "/.well-known/openid-configuration/tenants/a",
            "/tenants/a/.well-known/openid-configuration",
            "/tenants/a/.well-known/oauth-authorization-server",
        ] {
            let (status, _, body) = get(served(issuer, Some(keys())), path).await;
            assert_eq!((status, &body["issuer"]), (StatusCode::OK, &json!(issuer)), "{path}");
        }
        for path in ["/jwks.json", "/tenants/a/jwks.json"] {
            let (status, headers, body) = get(served(issuer, Some(keys())), path).await;
            assert_eq!((status, body), (StatusCode::OK, keys()), "{path}");
            assert_eq!(headers[CONTENT_TYPE], "application/jwk-set+json");
        }
        assert_eq!(get(served(issuer, Some(keys())), "/tenants/jwks.json").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn without_a_ring_keys_are_unavailable_and_metadata_is_not() {
        let served = served("https://va.example.com", None);
        let (status, headers, _) = get(served.clone(), "/jwks.json").await;
        assert_eq!((status, &headers[CACHE_CONTROL]), (StatusCode::SERVICE_UNAVAILABLE, &"no-store".parse().unwrap()));
        assert_eq!(headers["access-control-allow-origin"], "*");
        let (status, _, body) = get(served, "/.well-known/openid-configuration").await;
        assert_eq!((status, &body["id_token_signing_alg_values_supported"]), (StatusCode::OK, &json!(["ES256"])));
    }

    #[tokio::test]
    async fn a_known_document_is_not_sent_again() {
        let served = served("https://va.example.com", Some(keys()));
        let (_, headers, _) = get(served.clone(), "/jwks.json").await;
        let etag = headers[ETAG].to_str().unwrap().to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        for (tags, expected) in [
            (etag.clone(), StatusCode::NOT_MODIFIED),
            (format!("\"other\", W/{etag}"), StatusCode::NOT_MODIFIED),
            ("*".into(), StatusCode::NOT_MODIFIED),
            ("\"other\"".into(), StatusCode::OK),
        ] {
            let request = Request::get("/jwks.json").header(IF_NONE_MATCH, &tags).body(Body::empty()).unwrap();
            let (status, headers, _) = send(served.clone(), request).await;
            assert_eq!(status, expected, "{tags}");
            assert_eq!(headers[ETAG], etag.as_str());
            assert_eq!(headers[CACHE_CONTROL], "public, max-age=60");
        }
    }

    #[tokio::test]
    async fn other_keys_have_another_tag() {
        let (_, one, _) = get(served("https://va.example.com", Some(keys())), "/jwks.json").await;
        let (_, two, _) = get(served("https://va.example.com", Some(json!({"keys": []}))), "/jwks.json").await;
        assert_ne!(one[ETAG], two[ETAG]);
    }

    #[tokio::test]
    async fn methods_are_those_of_reading() {
        let served = served("https://va.example.com", Some(keys()));
        let head = Request::head("/jwks.json").body(Body::empty()).unwrap();
        assert_eq!(send(served.clone(), head).await.0, StatusCode::OK);
        let post = Request::post("/jwks.json").body(Body::empty()).unwrap();
        assert_eq!(send(served.clone(), post).await.0, StatusCode::METHOD_NOT_ALLOWED);
        let preflight = Request::options("/jwks.json")
            .header("origin", "https://app.example.com")
            .header("access-control-request-method", "GET")
            .body(Body::empty())
            .unwrap();
        let (status, headers, _) = send(served, preflight).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (StatusCode::OK, &"*".parse().unwrap()));
    }
}
