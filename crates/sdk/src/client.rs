//! The contract over HTTP, on the server's own socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wardline_proto::{Name, Role};

use crate::access::{DataAccess, path};
use crate::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, Agent, AgentFilter, Alert, AlertDetail,
    AlertFilter, Approval, Approved, Assignment, Backup, BackupOrder, BindingOrder, Damage, Database, ExplainFilter,
    Explained, Gap, GapFilter, Group, Issuer, Kind, LogEntry, LogFilter, Member, MemberFilter, Pack, PackDetail,
    PackFilter, PackOrder, Page, Pending, PendingFilter, PrincipalOrder, Problem, Profile, ProfileOrder, RecoveryOrder,
    RotationOrder, SealingTarget, Status, Token, TokenFilter, TokenOrder, Topology, Use,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The same for what reads or writes a whole database.
const WHOLE: Duration = Duration::from_secs(24 * 3600);

/// Asks a server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// A client of the server that listens on this socket. Nothing is connected before the first question.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn over_socket(socket: &Path) -> Result<Self, Problem> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| {
                let detail = format!("no HTTP client can be made: {error}");
                Problem::new(Kind::Failed, detail, "see what this user's limits are: `ulimit -a`")
            })?;
        Ok(Self { http, socket: socket.into() })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &(impl Serialize + Sync),
    ) -> Result<T, Problem> {
        self.send(self.request(method, path).query(query)).await
    }

    /// Has something done.
    async fn tell<T: DeserializeOwned>(&self, path: &str, order: &(impl Serialize + Sync)) -> Result<T, Problem> {
        self.send(self.request(Method::POST, path).json(order)).await
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        // The host is not used on a socket, but HTTP wants one.
        self.http.request(method, format!("http://wardline{path}"))
    }

    async fn send<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Problem> {
        let response = request.send().await.map_err(|error| self.not_answered(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.not_answered(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let detail = format!("the server's answer cannot be understood: {error}");
                Problem::new(Kind::Failed, detail, "use the `wardline` of the server's version")
            });
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail: format!("the server answered {status}"),
            event: None,
            next: "use the `wardline` of the server's version".into(),
        }))
    }

    /// The problem of a question that did not come through.
    fn not_answered(&self, error: &reqwest::Error) -> Problem {
        let socket = self.socket.display();
        // The innermost cause is what an operator can act on; those around it say "error sending request".
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let denied = cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        if denied {
            let detail = format!("this user may not use the server's socket {socket}");
            return Problem::new(Kind::Denied, detail, "run it as root or as the server's user, e.g. with `sudo`");
        }
        let detail = if error.is_timeout() {
            format!("the server at {socket} did not answer within {} s", TIMEOUT.as_secs())
        } else {
            format!("the server at {socket} cannot be reached: {cause}")
        };
        Problem::new(Kind::Unreachable, detail, "see that it runs: `systemctl status wardline-server`")
    }
}

impl DataAccess for Client {
    async fn alerts(&self, filter: AlertFilter) -> Result<Page<Alert>, Problem> {
        self.ask(Method::GET, path::ALERTS, &filter).await
    }

    async fn alert(&self, id: &str) -> Result<AlertDetail, Problem> {
        // Anything else might become another path.
        if id.is_empty() || id.len() > 36 || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            let id: String = id.chars().take(40).collect();
            let next = "`wardline alert list --all -o name` shows the ids";
            return Err(Problem::new(Kind::Invalid, format!("{id:?} is neither an id nor the beginning of one"), next));
        }
        self.ask(Method::GET, &path::ALERT.replace("{id}", id), &()).await
    }

    async fn agents(&self, filter: AgentFilter) -> Result<Page<Agent>, Problem> {
        self.ask(Method::GET, path::AGENTS, &filter).await
    }

    async fn agent(&self, name: &Name) -> Result<Agent, Problem> {
        self.ask(Method::GET, &path::AGENT.replace("{name}", name.as_str()), &()).await
    }

    async fn release(&self, agent: &Name) -> Result<Agent, Problem> {
        self.ask(Method::POST, &path::RELEASE.replace("{name}", agent.as_str()), &()).await
    }

    async fn gaps(&self, filter: GapFilter) -> Result<Page<Gap>, Problem> {
        self.ask(Method::GET, path::GAPS, &filter).await
    }

    async fn topology(&self) -> Result<Topology, Problem> {
        self.ask(Method::GET, path::TOPOLOGY, &()).await
    }

    async fn status(&self) -> Result<Status, Problem> {
        self.ask(Method::GET, path::STATUS, &()).await
    }

    async fn database(&self) -> Result<Database, Problem> {
        self.ask(Method::GET, path::DATABASE, &()).await
    }

    async fn backup(&self, order: BackupOrder) -> Result<Backup, Problem> {
        self.send(self.request(Method::POST, path::BACKUP).json(&order).timeout(WHOLE)).await
    }

    async fn examine(&self) -> Result<Page<Damage>, Problem> {
        self.send(self.request(Method::POST, path::EXAMINE).json(&()).timeout(WHOLE)).await
    }

    async fn create_token(&self, order: TokenOrder) -> Result<Token, Problem> {
        self.tell(path::TOKENS, &order).await
    }

    async fn tokens(&self, filter: TokenFilter) -> Result<Page<Token>, Problem> {
        self.ask(Method::GET, path::TOKENS, &filter).await
    }

    async fn revoke_token(&self, id: &str) -> Result<Token, Problem> {
        // Anything else might become another path.
        if id.is_empty() || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let id: String = id.chars().take(40).collect();
            let detail = format!("{id:?} is neither the id of a token nor the beginning of one");
            return Err(Problem::new(Kind::Invalid, detail, "`wardline token list -o name` shows the ids"));
        }
        self.tell(&path::REVOKE.replace("{id}", id), &()).await
    }

    async fn members(&self, filter: MemberFilter) -> Result<Page<Member>, Problem> {
        self.ask(Method::GET, path::MEMBERS, &filter).await
    }

    async fn remove(&self, role: Role, name: &Name) -> Result<Member, Problem> {
        self.tell(&member(path::REMOVE, role, name), &()).await
    }

    async fn assign(&self, role: Role, name: &Name, assignment: Assignment) -> Result<Member, Problem> {
        self.tell(&member(path::ASSIGN, role, name), &assignment).await
    }

    async fn bind_principal(&self, role: Role, name: &Name, order: PrincipalOrder) -> Result<Member, Problem> {
        self.tell(&member(path::PRINCIPAL, role, name), &order).await
    }

    async fn revoke(&self, member: &Name) -> Result<Member, Problem> {
        self.tell(&path::REVOKE_CERTIFICATES.replace("{name}", member.as_str()), &()).await
    }

    async fn issuers(&self) -> Result<Page<Issuer>, Problem> {
        self.ask(Method::GET, path::ISSUERS, &()).await
    }

    async fn rotate(&self, order: RotationOrder) -> Result<Issuer, Problem> {
        self.tell(path::ROTATE, &order).await
    }

    async fn pending(&self, filter: PendingFilter) -> Result<Page<Pending>, Problem> {
        self.ask(Method::GET, path::PENDING, &filter).await
    }

    async fn approve(&self, role: Role, name: &Name, approval: Approval) -> Result<Approved, Problem> {
        self.tell(&member(path::APPROVE, role, name), &approval).await
    }

    async fn reject(&self, role: Role, name: &Name) -> Result<Pending, Problem> {
        self.tell(&member(path::REJECT, role, name), &()).await
    }

    async fn log(&self, filter: LogFilter) -> Result<Page<LogEntry>, Problem> {
        self.ask(Method::GET, path::LOG, &filter).await
    }

    async fn group(&self) -> Result<Group, Problem> {
        self.ask(Method::GET, path::GROUP, &()).await
    }

    async fn escrow(&self, order: RecoveryOrder) -> Result<Group, Problem> {
        self.tell(path::RECOVERY, &order).await
    }

    async fn packs(&self, filter: PackFilter) -> Result<Page<Pack>, Problem> {
        self.ask(Method::GET, path::PACKS, &filter).await
    }

    async fn pack(&self, name: &str) -> Result<PackDetail, Problem> {
        self.ask(Method::GET, &word(path::PACK, "pack", name)?, &()).await
    }

    async fn apply_pack(&self, order: PackOrder) -> Result<Pack, Problem> {
        self.tell(path::PACKS, &order).await
    }

    async fn remove_pack(&self, name: &str) -> Result<Pack, Problem> {
        self.tell(&word(path::PACK_REMOVE, "pack", name)?, &()).await
    }

    async fn sealing(&self) -> Result<SealingTarget, Problem> {
        self.ask(Method::GET, path::SEALING, &()).await
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Page<Account>, Problem> {
        self.ask(Method::GET, path::ACCOUNTS, &filter).await
    }

    async fn account(&self, name: &str) -> Result<AccountDetail, Problem> {
        self.ask(Method::GET, &word(path::ACCOUNT, "account", name)?, &()).await
    }

    async fn create_account(&self, order: AccountOrder) -> Result<Account, Problem> {
        self.tell(path::ACCOUNTS, &order).await
    }

    async fn update_account(&self, name: &str, change: AccountChange) -> Result<Account, Problem> {
        self.tell(&word(path::ACCOUNT_UPDATE, "account", name)?, &change).await
    }

    async fn delete_account(&self, name: &str) -> Result<Account, Problem> {
        self.tell(&word(path::ACCOUNT_DELETE, "account", name)?, &()).await
    }

    async fn account_uses(&self, name: &str) -> Result<Page<Use>, Problem> {
        self.ask(Method::GET, &word(path::ACCOUNT_USES, "account", name)?, &()).await
    }

    async fn profiles(&self, filter: AccountFilter) -> Result<Page<Profile>, Problem> {
        self.ask(Method::GET, path::PROFILES, &filter).await
    }

    async fn profile(&self, name: &str) -> Result<Profile, Problem> {
        self.ask(Method::GET, &word(path::PROFILE, "profile", name)?, &()).await
    }

    async fn create_profile(&self, order: ProfileOrder) -> Result<Profile, Problem> {
        self.tell(path::PROFILES, &order).await
    }

    async fn delete_profile(&self, name: &str) -> Result<Profile, Problem> {
        self.tell(&word(path::PROFILE_DELETE, "profile", name)?, &()).await
    }

    async fn bind_profile(&self, name: &str, order: BindingOrder) -> Result<Profile, Problem> {
        self.tell(&word(path::PROFILE_BIND, "profile", name)?, &order).await
    }

    async fn explain_profile(&self, name: &str, filter: ExplainFilter) -> Result<Page<Explained>, Problem> {
        self.ask(Method::GET, &word(path::PROFILE_EXPLAIN, "profile", name)?, &filter).await
    }
}

/// The path of a thing of this name.
fn word(path: &str, what: &str, name: &str) -> Result<String, Problem> {
    // Anything else might become another path.
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
        let name: String = name.chars().take(70).collect();
        let next = format!("`wardline {what} list -o name` shows the names");
        return Err(Problem::new(Kind::Invalid, format!("{name:?} is no name of a {what}"), next));
    }
    Ok(path.replace("{name}", name))
}

fn member(path: &str, role: Role, name: &Name) -> String {
    path.replace("{role}", role.as_str()).replace("{name}", name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_id_is_not_even_asked_for() {
        let client = Client::over_socket(Path::new("/nonexistent/api.sock")).unwrap();
        for id in ["", ".", "..", "../agents", "0190?all=true", "0190 ", &"0".repeat(37)] {
            assert_eq!(client.alert(id).await.unwrap_err().kind(), Kind::Invalid, "{id:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable_and_the_next_command_is_named() {
        let client = Client::over_socket(Path::new("/nonexistent/api.sock")).unwrap();
        let problem = client.status().await.unwrap_err();
        assert_eq!(problem.kind(), Kind::Unreachable, "{problem}");
        assert!(problem.detail.contains("/nonexistent/api.sock cannot be reached: "), "{problem}");
        assert!(problem.next.contains("systemctl status"));
    }
}
