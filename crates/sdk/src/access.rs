//! The contract in one trait: the server fulfils it from its store and its sessions, the client over HTTP.

use std::future::Future;

use wardline_proto::Name;

use crate::{Agent, AgentFilter, Alert, AlertDetail, AlertFilter, Gap, GapFilter, Page, Problem, Status, Topology};

/// What an operator can ask of a management group. Every method fails with a [`Problem`] that says what to do next.
pub trait DataAccess: Send + Sync {
    /// Lists alerts, newest first.
    fn alerts(&self, filter: AlertFilter) -> impl Future<Output = Result<Page<Alert>, Problem>> + Send;

    /// The alert with this id; a prefix that fits only one is enough.
    fn alert(&self, id: &str) -> impl Future<Output = Result<AlertDetail, Problem>> + Send;

    /// Lists agents by name.
    fn agents(&self, filter: AgentFilter) -> impl Future<Output = Result<Page<Agent>, Problem>> + Send;

    /// Releases an agent that is held because two queues of it displaced each other, and gives how it stands then. A
    /// conflict when it is not held.
    fn release(&self, agent: &Name) -> impl Future<Output = Result<Agent, Problem>> + Send;

    /// Lists gap records, newest first.
    fn gaps(&self, filter: GapFilter) -> impl Future<Output = Result<Page<Gap>, Problem>> + Send;

    /// Services and hops as they stand now.
    fn topology(&self) -> impl Future<Output = Result<Topology, Problem>> + Send;

    /// How the server is.
    fn status(&self) -> impl Future<Output = Result<Status, Problem>> + Send;
}

/// Where each question is asked.
pub mod path {
    /// `GET`: list of alerts.
    pub const ALERTS: &str = "/api/v1/alerts";
    /// `GET`: one alert.
    pub const ALERT: &str = "/api/v1/alerts/{id}";
    /// `GET`: list of agents.
    pub const AGENTS: &str = "/api/v1/agents";
    /// `POST`: release an agent.
    pub const RELEASE: &str = "/api/v1/agents/{name}/release";
    /// `GET`: list of gap records.
    pub const GAPS: &str = "/api/v1/gaps";
    /// `GET`: services and hops.
    pub const TOPOLOGY: &str = "/api/v1/topology";
    /// `GET`: how the server is.
    pub const STATUS: &str = "/api/v1/status";
}
