//! What integration tests stand on: a control plane, the operator on it, and ways to look at both.

pub(crate) mod bao;
pub(crate) mod cluster;
pub(crate) mod fault;
pub(crate) mod helm;
pub(crate) mod link;
pub(crate) mod operator;
pub(crate) mod plane;
pub(crate) mod rendered;
pub(crate) mod requests;
pub(crate) mod server;
