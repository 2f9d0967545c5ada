//! Placeholder until the registry is there.
#![allow(missing_docs, clippy::unused_async, clippy::unused_self)]
use super::*;
use crate::api::StoreId;
use std::collections::BTreeSet;
#[derive(Default)]
pub struct Registry;
fn none() -> StoreError {
    StoreError::new(ErrorKind::NotFound, "StoreNotFound", "none")
}
impl Registry {
    pub fn admit(&self, _: &str, _: &StoreId, _: &str) -> Admission {
        Admission::Refused { reason: "StoreNotFound", message: "none".into() }
    }
    pub fn namespace_terminating(&self, _: &str) -> bool {
        false
    }
    pub async fn read(&self, _: &StoreId, _: &str) -> Result<Held, StoreError> {
        Err(none())
    }
    pub async fn write(&self, _: &StoreId, _: &str, _: &Value<'_>, _: &Held) -> Result<String, StoreError> {
        Err(none())
    }
    pub async fn retire(&self, _: &StoreId, _: &str, _: &Held, _: &BTreeSet<String>) -> Result<(), StoreError> {
        Err(none())
    }
    pub async fn delete(&self, _: &StoreId, _: &str, _: &Held) -> Result<(), StoreError> {
        Err(none())
    }
}
