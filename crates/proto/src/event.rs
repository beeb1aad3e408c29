//! The catalogue of everything a program tells its operator, and the only way to say it.
//!
//! Each event has a number, a severity, a text made of its fields, and for `explain` what it means, what causes it and
//! what cures it. Numbers below 40000 are those of System Center Operations Manager where the meaning is the same; ours
//! begin at 40000.

use crate::health::Severity;

/// What the catalogue knows of an event apart from one occurrence of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The event's number.
    pub number: u32,
    /// How serious it is.
    pub severity: Severity,
    /// The name of it in one word.
    pub name: &'static str,
    /// The text, with the names of its fields in braces.
    pub text: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What brings it about.
    pub cause: &'static str,
    /// What to do.
    pub cure: &'static str,
    /// The names of its fields.
    pub fields: &'static [&'static str],
}

macro_rules! catalogue {
    ($(
        $number:literal $severity:ident $name:ident { $($field:ident),* $(,)? }
            $text:literal
            meaning $meaning:literal
            cause $cause:literal
            cure $cure:literal
    )*) => {
        /// One occurrence of an event, with the values of its fields.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Event {
            $(#[doc = $meaning] $name { $(#[doc = concat!("`", stringify!($field), "` of the text")] $field: String),* },)*
        }

        /// Every event, in the order of the numbers.
        pub const CATALOGUE: &[Entry] = &[$(Entry {
            number: $number, severity: Severity::$severity, name: stringify!($name), text: $text,
            meaning: $meaning, cause: $cause, cure: $cure, fields: &[$(stringify!($field)),*],
        }),*];

        impl Event {
            /// Its number.
            pub const fn number(&self) -> u32 { match self { $(Self::$name { .. } => $number),* } }
            /// How serious it is.
            pub const fn severity(&self) -> Severity { match self { $(Self::$name { .. } => Severity::$severity),* } }
            /// Its text.
            pub fn text(&self) -> String { match self { $(Self::$name { $($field),* } => format!($text)),* } }
            /// Its fields, name and value.
            pub fn fields(&self) -> Vec<(&'static str, &str)> {
                match self { $(Self::$name { $($field),* } => vec![$((stringify!($field), $field.as_str())),*]),* }
            }
        }
    };
}

catalogue! {
    1107 Warning ProfileUnassigned { workflow, profile }
        "check {workflow} does not run: no account is assigned to the Run As profile {profile} for this host"
        meaning "The check is unknown. It does not run without the credential that it asks for."
        cause "Nobody has said which account the profile stands for on this host, or the profile does not exist."
        cure "At the server: `wardline profile explain PROFILE`, then `wardline profile set PROFILE --account ACCOUNT`."

    1108 Warning AccountUndistributed { workflow, profile }
        "check {workflow} does not run: the account of the Run As profile {profile} is not distributed to this host"
        meaning "The check is unknown. It does not run without the credential that it asks for."
        cause "An account is assigned to the profile, but this host is not among those that may have it."
        cure "At the server: `wardline profile explain PROFILE` shows why; `wardline account update ACCOUNT --to HOSTS` distributes it."

    1210 Information ConfigurationActive { group, cookie }
        "new configuration is active: group {group}, cookie {cookie}"
        meaning "The workflows run by this configuration from now on, beside those of the configuration file on this host."
        cause "The program was started with what it had kept, or the server sent another."
        cure "Nothing to do."

    2023 Warning QueueFull { group, dropped, budget }
        "the queue of group {group} is full ({budget}): {dropped} entries were dropped and counted in a gap record"
        meaning "More was found than could be delivered and kept. What was dropped is counted in its place in the stream."
        cause "The parent or the database was away or slow for longer than the queue's budget lasts."
        cure "See why delivery stalled (the events before this one); raise `queue_budget` if outages of this length must be covered."

    7006 Information SealingKeyPublished { group, key }
        "the public key {key}, used to send this health service secrets, was published to group {group}; delivery is not confirmed by this"
        meaning "Secrets for this health service will be encrypted to this key, once the server has entered it."
        cause "The program was started, or has made a new key in time."
        cure "Nothing to do; event 40006 says that it was delivered."

    7011 Warning SecretRefused { account, reason }
        "the secret for the Run As account {account} was refused: {reason}"
        meaning "Nothing was kept or changed. Blank passwords are not supported."
        cause "The field was left blank, or has in it what no plugin can read."
        cure "Give it again: `wardline account create` or `wardline account update`."

    7022 Critical SecureDataUnusable { group, account, reason }
        "group {group}: the Run As account {account} came and cannot be used: {reason}"
        meaning "What came encrypted for this host was not opened. An earlier version of the account, if there is one, stays in use."
        cause "It was encrypted to a key that this host does not have any more, or somebody has changed or exchanged it."
        cure "This host publishes its key again by itself, and gets the account anew. If it repeats: `wardline profile explain` at the server."

    7023 Information SecureDataProcessed { group, accounts }
        "group {group}: Run As accounts in use on this host: {accounts}"
        meaning "These accounts were opened and rest in this host's protected store."
        cause "The program was started, or the server sent other accounts."
        cure "Nothing to do."

    20000 Warning UnknownHealthService { peer, address, reason }
        "{peer} at {address} is not part of this management group and was refused: {reason}"
        meaning "Somebody has a certificate of this group or a key of a listed realm, but by the trust log is no member, may not come this way, or has another certificate or principal."
        cause "It was removed or assigned elsewhere, dials another parent than it was given, the server was restored, or a gateway speaks for agents that it was not given."
        cure "`wardline topology` and `wardline keys log show` say who may come how. Assign it, correct its parents, or let it join anew; otherwise find out who it is."

    20002 Warning NotAuthenticated { address, reason }
        "a device at {address} could not be authenticated and was rejected: {reason}"
        meaning "The TLS handshake or the first message failed; nothing was read from the device."
        cause "It has no certificate of this group, speaks another protocol, or gave up."
        cure "The reason names the failed check. On the device, its own log names the same connection."

    20020 Information Heartbeating { agent }
        "{agent} is heard again, or is not to be heard any more"
        meaning "Its heartbeats come, or it is no longer a member of the group. The alert is closed."
        cause "It, or the way to it, was restored; or it was removed."
        cure "Nothing to do."

    20022 Warning NotHeartbeating { agent, reason }
        "{agent} is not heartbeating: {reason}"
        meaning "More than three heartbeats in a row were missed. The agent is grey: what it watches may be as it was, or not. An alert is open until it is heard again."
        cause "The host or the agent is off or hangs, the way to it is cut, or a gateway on it passes on no heartbeats."
        cure "The reason says what still stands. On the host `wardline-agent doctor` looks at every step of the way."

    20050 Critical CertificateUsage { path, reason }
        "the certificate in {path} cannot be used: {reason}"
        meaning "The channel certificate lacks server and client authentication in its extended key usage, or says more than these."
        cause "It was issued from another template."
        cure "Have it issued with extended key usage serverAuth (1.3.6.1.5.5.7.3.1) and clientAuth (1.3.6.1.5.5.7.3.2)."

    20051 Critical CertificateNotValidNow { path, from, to }
        "the certificate in {path} is not valid now: it is valid from {from} to {to}"
        meaning "The channel certificate has expired or is not valid yet."
        cause "It ended while the program was off, or a clock is wrong."
        cure "Check the clock. A host that has joined renews by itself; see event 40051."

    20052 Critical CertificateName { path, name, reason }
        "the certificate in {path} does not fit the name {name}: {reason}"
        meaning "A channel certificate has exactly one DNS name, this health service's, and exactly one role."
        cause "It was issued for another host or role, or with several names."
        cure "Have it issued with one DNS subject alternative name, exactly as configured, and the role's URI."

    20053 Information CertificateLoaded { path, key, to }
        "loaded the channel certificate in {path}, key id {key}, valid until {to}"
        meaning "The channel certificate passed its checks."
        cause "The program started, or the certificate was renewed."
        cure "Nothing to do."

    20057 Warning KerberosFailed { parent, reason }
        "Kerberos with {parent} failed: {reason}"
        meaning "There is no session with this parent. What is found is kept in the queue; it is tried again, and nothing weaker is tried."
        cause "The reason names it: the KDC is away or refuses, a keytab or a clock is wrong, the library is missing, or the other end has other keys."
        cure "See the reason; `wardline-agent doctor` looks at each of them."

    20066 Critical CertificateMissing { path, reason }
        "the file {path} is needed for mutual authentication and cannot be read: {reason}"
        meaning "A key or certificate of the channel is missing or unreadable, or others may read it."
        cause "The host has not joined, the file was removed, or its permissions were changed."
        cure "Restore the file, private keys with mode 0600, certificates not writable by others; an agent or gateway can also join anew."

    20067 Warning PeerCertificateInvalid { address, reason }
        "the device at {address} presented an invalid certificate and was rejected: {reason}"
        meaning "The certificate of the connecting device failed a check; nothing was read from it."
        cause "The reason names the check: chain, validity, usage, name, or role."
        cure "Renew or replace the certificate on that device."

    20068 Critical PrivateKeyUnusable { path, reason }
        "the private key in {path} cannot be used: {reason}"
        meaning "The key is damaged, of another kind than P-256, or does not belong to the certificate."
        cause "Certificate and key come from different requests, or the file was changed."
        cure "Restore the matching pair."

    20070 Warning ClosedAfterAuthentication { parent, reason }
        "connected to {parent}, but it closed the connection after authentication: {reason}"
        meaning "The parent knows who this is and does not want to talk to it."
        cause "The trust log does not have it or its way, another session took its place, the parent is stopping, or the network failed."
        cure "If it lasts, look for event 20000 on the server and 40002 on the parent."

    20071 Warning ClosedBeforeAuthentication { parent, reason }
        "connected to {parent}, but the connection ended before authentication: {reason}"
        meaning "The parent did not take this end's certificate or ticket, is overloaded, or is no Wardline program."
        cause "A certificate or ticket that the parent refuses, a mechanism that it does not allow, or another service on that port."
        cure "Look for event 20002, 20067 or 40211 on the parent."

    20072 Critical ParentNotTrusted { parent, reason }
        "the certificate of {parent} was not trusted: {reason}; it was sent nothing"
        meaning "Whoever answered could not prove to be the parent. Not one byte of data was sent."
        cause "A wrong address, a certificate with a fault, or somebody in between."
        cure "The reason names the failed check. Compare the parent's certificate with what it should be."

    21005 Warning ParentNotResolved { parent, reason }
        "the address of {parent} could not be resolved: {reason}"
        meaning "There is no address to connect to."
        cause "A wrong name, or DNS is away."
        cure "Correct the parent's name or address, or DNS."

    21006 Warning ParentUnreachable { parent, reason }
        "could not connect to {parent}: {reason}"
        meaning "No TCP connection. What is found is kept in the queue and sent later."
        cause "The parent is down, the network is cut, or a firewall stands between."
        cure "Check that the parent runs and that its port can be reached."

    21011 Warning MechanismsDiffer { peer, reason }
        "{peer} and this end do not agree how to authenticate: {reason}"
        meaning "There is no session. Certificates are used when both ends have one, otherwise Kerberos, and nothing else."
        cause "This end has no certificate, and Kerberos is not allowed for the parent or the parent is held to the certificate that it used; or somebody stands between."
        cure "Compare `mechanism` at the child and `[kerberos]` at the parent. A child that is to leave certificates says mechanism = \"kerberos\"."

    21016 Warning NoParent { group, reason }
        "no parent of group {group} can be reached ({reason}); everything is kept until one can"
        meaning "All configured parents were tried in turn."
        cause "See the events before this one, one per parent."
        cure "Bring one parent back; the connection resumes by itself."

    21023 Information ConfigurationMissing { group }
        "there is no configuration for group {group}; the server is asked for one"
        meaning "Only the packs of the configuration file on this host run until it comes."
        cause "The host joined just now, or what it had kept was lost or refused."
        cure "Nothing to do. If it does not come, look for event 40085 on the server."

    21024 Information ConfigurationOutOfDate { group, cookie }
        "the configuration of group {group} is out of date, its cookie is {cookie}; the server is asked for the newer one"
        meaning "The server has said that there is another. The one that is here stays in use until it comes."
        cause "Something was changed while this host was not connected."
        cure "Nothing to do. If it comes again and again without event 21025, something on the way withholds it."

    21025 Information ConfigurationReceived { group, cookie }
        "received a new configuration for group {group}, cookie {cookie}"
        meaning "It is signed by the server for this host, newer than the one before, and kept."
        cause "An operator applied or removed a pack, or assigned this host to other gateways."
        cure "Nothing to do."

    21026 Information ConfigurationValid { group, cookie }
        "the configuration of group {group}, cookie {cookie}, is still valid"
        meaning "The server was asked and has no other."
        cause "The connection was made or made again."
        cure "Nothing to do."

    40000 Information Started { program, version, name }
        "{program} {version} started as {name}"
        meaning "The program passed its start-up checks."
        cause "It was started."
        cure "Nothing to do."

    40001 Critical ConfigurationRefused { file, reason }
        "{file} is refused: {reason}"
        meaning "A configuration file or a pack has an error. Nothing of it was applied."
        cause "An unknown key, a value of the wrong type, or one out of range; file, line and column are named."
        cure "Correct the file and start again. `check-config` shows the same without starting."

    40002 Critical ProtocolViolation { peer, address, reason }
        "{peer} at {address} broke the protocol and was disconnected: {reason}"
        meaning "A peer sent bytes that are no message, or a message that its role may not send. Nothing of it was applied."
        cause "A damaged or hostile program at the other end."
        cure "Find out what runs there; its channel certificate names it."

    40003 Critical StateFolderInUse { path, reason }
        "the state folder {path} cannot be used: {reason}"
        meaning "Two programs on one state folder would destroy each other's queue and keys; the second one does not start."
        cause "Another instance runs on it, or it cannot be written or is open to other users."
        cure "Stop the other instance, or give this one a folder of its own, mode 0700."

    40004 Information Connected { parent, mechanism, version, cipher, exchange }
        "connected to {parent}: {mechanism}, {version}, {cipher}, {exchange}"
        meaning "A mutually authenticated, encrypted session with the parent stands."
        cause "The parent can be reached."
        cure "Nothing to do."

    40005 Information Delivering { group, upto }
        "the stream of group {group} and the server's watermark agree at {upto}; delivering"
        meaning "Both ends compared positions by signed messages; delivery goes on from there."
        cause "The connection was made or made again."
        cure "Nothing to do."

    40006 Information SealingKeyConfirmed { group, key }
        "the server of group {group} has entered the public key {key}: secrets for this health service are encrypted to it"
        meaning "A server has signed that the trust log has this key."
        cause "The key was published (event 7006)."
        cure "Nothing to do."

    40010 Critical ForgedAcknowledgement { parent, reason }
        "an acknowledgement that came by {parent} was refused: {reason}; nothing was removed from the queue"
        meaning "Somebody on the way claims in the server's name that data arrived. It stays in the queue."
        cause "A gateway, or whoever controls it, forges or replays acknowledgements."
        cure "Treat the gateway as taken over."

    40011 Critical ForgedData { agent, address, reason }
        "data in the name of {agent} that came from {address} was refused: {reason}"
        meaning "A batch or position is not signed by the agent it names, or was altered. Nothing of it was stored."
        cause "A gateway changed or invented something, or the agent has another identity key than the one that it joined with."
        cure "Compare the key with `wardline keys log show`. If it fits, remove the gateway."

    40012 Warning StreamBroken { agent, reason }
        "the stream of {agent} does not continue what is here: {reason}; positions are compared anew"
        meaning "Something between was dropped or sent out of order. Nothing is lost: the agent sends again."
        cause "A gateway or the network dropped something."
        cure "If it repeats, look at the gateway."

    40013 Warning EpochOpened { group, reason }
        "the queue of group {group} opened a new epoch: {reason}"
        meaning "This queue and the server's watermark do not belong together. The queue goes on in a new stream; what only the number is known of is counted in a gap record."
        cause "The host was restored from a snapshot or image, or its state folder was wiped or copied."
        cure "If nobody restored anything, find out who did. If the host was copied, give the copy a name and keys of its own."

    40014 Warning EpochDisplaced { agent, reason }
        "{agent} came with a new queue: {reason}"
        meaning "The agent's earlier stream is closed; batches of it are refused from now on."
        cause "The host's queue was wiped, restored from a snapshot, or copied."
        cure "If nobody did that, find out who runs a copy of the host."

    40015 Critical StreamHeld { agent }
        "two queues of {agent} displace each other in turn; both are held until an operator releases them"
        meaning "The same identity key is in use on two hosts. Nothing of either is stored while they are held; both keep what they find."
        cause "The host was copied together with its state folder."
        cure "Stop the copy, remove its group's folder and let it join under a name of its own, then run `wardline agent release NAME`."

    40016 Warning WatermarkBehind { group, from, to }
        "the server has {from} of group {group}, but had acknowledged {to}: it was restored to an earlier state"
        meaning "The server lost what it had committed. What is still in the queue is sent again; the rest is counted in a gap record."
        cause "The database was restored from a backup."
        cure "Look at the gap records for what is missing."

    40017 Critical BatchesWithheld { agent, gateways, handed, taken }
        "{agent} has handed over everything up to {handed}, by its own signed word, but only {taken} has come, while its heartbeats do; on its way: {gateways}"
        meaning "One of the gateways that are named withholds what the agent finds, alerts too, or delays it by more than three heartbeats. The agent keeps it, and an alert is open until it has come."
        cause "A gateway that somebody has taken over or changed, or a line so slow that one batch takes longer than three heartbeats."
        cure "Look at these gateways. Give the agent to others, `wardline agent assign`: it sends again what is missing."

    40018 Information WithheldHasCome { agent }
        "what was missing of {agent} has come"
        meaning "Nothing of it is lost. The alert is closed."
        cause "It was delayed, or comes another way now."
        cure "Find out what had delayed it, if that is not known."

    40019 Warning WithheldEnded { agent, reason }
        "what was missing of {agent} is not waited for any more: {reason}"
        meaning "What it had handed over did not come, and will not come in that stream. The alert is closed."
        cause "Its queue was wiped, restored from a snapshot, or copied (event 40014), or the agent was removed."
        cure "What its queue still has comes in the new stream, and what it knows to be lost is in a gap record. If nobody did that, look at the host, and at the gateways that event 40017 named."

    40020 Warning DatabaseBusy { path, reason }
        "{path} does not take data now: {reason}; what comes is held back, nothing is lost"
        meaning "A commit failed or waits. Nothing is acknowledged before it is committed."
        cause "Another program locks the database."
        cure "Free the lock; writing goes on by itself."

    40021 Information DatabaseBack { path, seconds }
        "{path} takes data again, after {seconds} s"
        meaning "What was held back is written."
        cause "The trouble that event 40020, 40025 or 40026 named is over."
        cure "Nothing to do."

    40022 Critical DatabaseNewer { path, found, known }
        "the database {path} has schema {found}, this program knows schemas up to {known}; it is left alone"
        meaning "A newer version of the program has written this database."
        cause "The program was replaced by an older one."
        cure "Start the newer version, or restore the backup that was made before the upgrade."

    40023 Critical DatabaseUnusable { path, reason }
        "the database {path} cannot be used: {reason}"
        meaning "The database cannot be opened, or is damaged."
        cause "Wrong permissions, a full or failing disk, or a file that is no database."
        cure "Check the path and its permissions. `wardline db check` names what is damaged; put a backup back: docs/operations/install.md, postgresql.md."

    40024 Critical EntrySetAside { agent, number, reason }
        "entry {number} of {agent} cannot be understood and was set aside: {reason}"
        meaning "The agent signed it, but it makes no sense here. It is kept as it is; the stream goes on."
        cause "The agent is of a newer version than the server, or damaged."
        cure "Upgrade the server; otherwise reinstall the agent."

    40025 Critical DiskFull { path }
        "the disk of {path} is full: nothing more is stored or acknowledged until there is room; what comes is held back, nothing is lost"
        meaning "On a server agents are held back and keep what they find. On an agent logs and checks wait with what they have found."
        cause "Something fills the file system that the file lies on."
        cure "Make room on that file system (`df`, `du -x`), or make it larger. Writing goes on by itself, with event 40021."

    40026 Critical DiskFailed { path, reason }
        "writing {path} failed: {reason}; nothing of it was acknowledged, and all of it is written again"
        meaning "What a disk could not keep counts as not written, whatever it says later: the file is opened anew and everything in doubt is written once more."
        cause "A failing disk, controller or cable, or storage on a network that is away."
        cure "See what the kernel says (`dmesg`) and how the disk is (`smartctl -a`). Writing goes on by itself, with event 40021; replace a disk that repeats this."

    40027 Information DatabaseCopied { path, act }
        "{act} has copied the database to {path}"
        meaning "The copy is one state of the database, whole, and readable by its owner only."
        cause "`wardline db backup`."
        cure "Keep it as you keep the database: it has everything in it that the server was told."

    40028 Critical DatabaseDamaged { place, reason }
        "of the database {place} cannot be read: {reason}"
        meaning "The disk has changed what it was given, or somebody has. Everything else is there, and the server goes on."
        cause "A failing disk, memory or controller, or somebody who has written into the files."
        cure "`wardline db check` names all that is damaged. See what the kernel says (`dmesg`) and how the disk is (`smartctl -a`). Put a backup back if what is lost is needed: docs/operations/install.md, postgresql.md."

    40029 Critical WriteRefused { what, reason }
        "the database does not take {what}: {reason}; everything else is written"
        meaning "What the database holds already does not go together with it. It was not written and not acknowledged; an agent sends its batches again."
        cause "Somebody wrote into the database by hand, or a newer version of the program has."
        cure "Put right what was written by hand, or put a backup back. The reason names what the database complains of."

    40030 Warning CheckFailed { workflow, reason }
        "check {workflow} gave no usable result: {reason}; its state is unknown"
        meaning "The plugin could not be run, was ended at its limit, or printed what the interface does not allow."
        cause "The reason says which."
        cure "Run the plugin by hand as the same user."

    40031 Warning LogSkipped { workflow, path, reason }
        "log {path} of {workflow}: {reason}"
        meaning "A log file was cut, replaced or cannot be read; following goes on from where it can."
        cause "Log rotation that cuts files in place, or changed permissions."
        cure "Let rotation rename files; give the agent's user read permission."

    40032 Critical WorkflowEnded { workflow, reason }
        "workflow {workflow} ended by itself: {reason}; all workflows of its group stop"
        meaning "A check or a log was not watched any more. Nothing is watched for the group rather than less than was asked for; an agent without another group ends."
        cause "A mistake in the program."
        cure "Start it again, if the service manager did not; what was found is in the queue. Report the mistake."

    40033 Information DatabaseMigrated { path, from, to }
        "the schema of the database {path} was brought from {from} to {to}"
        meaning "A version of the program that knows more has changed what the tables look like. What is in them stays."
        cause "An upgrade."
        cure "Nothing to do. An older program leaves the database alone from now on (40022)."

    40040 Information PeerConnected { peer, address }
        "{peer} connected from {address}"
        meaning "A mutually authenticated session with a health service stands."
        cause "It started or came back."
        cure "Nothing to do."

    40041 Information PeerGone { peer, reason }
        "{peer} is gone: {reason}"
        meaning "The session with a health service ended."
        cause "It stopped, the network failed, or it was disconnected."
        cure "If it does not come back, look at the host."

    40042 Warning ListenerBusy { reason }
        "connections are refused or dropped: {reason}"
        meaning "More handshakes are under way, or more connections open, than allowed, and the oldest unfinished ones make place; or more were refused than are named."
        cause "A flood, or very many health services that come back at once."
        cure "If it lasts, find out who connects; the addresses stand in events 20000 and 20002."

    40043 Information LeaseTaken { work, from }
        "this server does the work {work} for the group from now on; before it was {from}"
        meaning "Some work is done by one of several servers: the watcher tells of agents that are not heard. Nothing was heard of the one that did it."
        cause "That server has ended, hangs, or does not reach the database."
        cure "See why, and start it again. It takes nothing back, and what it may still write in its old term is not done."

    40050 Information BackToFirstParent { parent, left }
        "the first parent {parent} is back; the session moves there from {left}"
        meaning "A session with the first parent of the list stands, and the one with another parent was closed for it."
        cause "The first parent was away and can be reached again."
        cure "Nothing to do."

    40051 Warning CertificateNotRenewed { group, to, reason, seconds }
        "the channel certificate for group {group}, valid until {to}, was not renewed: {reason}; next try in {seconds} s"
        meaning "It goes on to be used until it ends. After that there is no connection, and what is found is kept in the queue."
        cause "No parent can be reached, or the server does not know this host any more."
        cure "The reason names each parent that was asked. A host that was removed from the group must join anew."

    40060 Information GroupFounded { group, pin }
        "management group {group} was founded; the pin of its root is {pin}"
        meaning "The server has made the group's root, its issuing CA and its duty key, and has begun the trust log."
        cause "The server was started for the first time."
        cure "Make a recovery key: `wardline keys escrow`. Keep the pin where operators find it."

    40061 Information Joined { service, act }
        "{service} joined the management group by {act}"
        meaning "A health service has proved that it may join, and has its channel certificate, unless it comes by Kerberos alone."
        cause "Somebody ran `join` on the host."
        cure "Nothing to do. If nobody did, remove it: `wardline agent remove NAME`, and revoke the token, or give the principal a new key at the KDC."

    40062 Warning JoinRefused { name, address, reason }
        "{name} at {address} may not join: {reason}"
        meaning "Somebody knocked and was not let in. Nothing was changed, and no token was used up."
        cause "A token that is not good any more or for another name, or somebody who tries."
        cure "The reason says what was wrong. Many of these from one address: find out who it is."

    40063 Information CertificateIssued { service, to }
        "{service} has a new channel certificate, valid until {to}"
        meaning "A member renewed its certificate, or came home after it had ended."
        cause "Renewal, which happens by itself."
        cure "Nothing to do."

    40064 Warning MemberRemoved { service, act }
        "{service} was removed from the management group by {act}"
        meaning "Its sessions end now; its certificates, identity key and name are worth nothing here any more."
        cause "An operator removed it."
        cure "Nothing to do. A host of that name can join anew, with a token."

    40065 Critical LogRolledBack { place, kept, found }
        "the trust log is not the one that this server knows: {place} has kept {kept}, the database has {found}"
        meaning "The log in the database is shorter than it was, or another. Decisions about trust would be taken by it: the server does not start."
        cause "A database restored from a backup, or somebody who wrote into it."
        cure "Find out who changed the database. If it was restored on purpose: `wardline-server accept-restore --config FILE`, then remove and revoke again what was."

    40066 Critical LogDamaged { number, reason }
        "entry {number} of the trust log cannot be believed: {reason}"
        meaning "An entry is not what a server of this group signed. What is behind it is not looked at: the server does not start."
        cause "Somebody wrote into the database, or the disk damaged it; or a server that runs a later version of the program has appended what this one does not know."
        cure "Where servers run another version, replace the program. Otherwise restore the database and the file `head` from one backup, and find out who wrote into it."

    40067 Critical RowsRebuilt { table, rows }
        "{rows} in table {table} were not what the trust log says, and were rebuilt from it"
        meaning "The tables are only a view of the trust log. Nobody was trusted because of these rows."
        cause "Somebody wrote into the database by hand, or a backup of one table was put back."
        cure "Find out who can write into the database."

    40068 Warning NoRecoveryKey { group }
        "management group {group} has no recovery key"
        meaning "If all servers are lost, every host must join anew."
        cause "`wardline keys escrow` was not run yet."
        cure "Run `wardline keys escrow`, and keep what it shows away from the servers."

    40070 Information JoinWaits { service, address, key }
        "{service} at {address} asks to join, with identity key {key}; an operator has to approve it"
        meaning "Nothing is decided and nothing is written. The host shows a code, and waits for half an hour."
        cause "Somebody ran `join` on the host: an agent or a gateway without a token, a further server with one."
        cure "Have the code told by somebody at the host: `wardline agent approve NAME CODE`, or `gateway` or `server` in its place. If nobody is there: `reject NAME`."

    40071 Information JoinApproved { service, act }
        "{service} was approved by {act}"
        meaning "The code that was typed is the one of the host; it is part of the management group once it has its certificate."
        cause "An operator approved it."
        cure "Tell whoever stands at the host the confirmation code: the host believes the server only when that is typed."

    40072 Information JoinRejected { service, act }
        "the request of {service} to join was rejected by {act}"
        meaning "The host is told so. Nothing was written."
        cause "An operator rejected it, or approved another request in the same name."
        cure "Nothing to do. The host may ask again."

    40073 Warning JoinCodeWrong { service, act }
        "a wrong code was typed for {service} by {act}; its requests were rejected"
        meaning "A code can be tried once. The host is not part of the management group."
        cause "A typing mistake; or somebody stands between the host and the server, so that the host shows another code."
        cure "Have the host ask again, and compare with care. If the codes differ once more, find out who is on the way."

    40080 Critical ConfigurationForged { parent, reason }
        "a configuration that came by {parent} was refused: {reason}; the one before stays in use"
        meaning "It is not what the server signed, or not signed by it. Nothing of it was applied."
        cause "A gateway, or whoever controls it, forges or alters configurations."
        cure "Treat the gateway as taken over."

    40081 Critical ConfigurationOlder { parent, version, kept }
        "a configuration of version {version} that came by {parent} was refused: version {kept} was here already; it stays in use"
        meaning "The server signed it, but a newer one has taken its place since. Nothing of it was applied."
        cause "A gateway, or whoever controls it, sends what it has kept."
        cure "Treat the gateway as taken over."

    40082 Critical ConfigurationForAnother { parent, name }
        "a configuration for {name} that came by {parent} was refused; the one before stays in use"
        meaning "The server signed it for another health service. Nothing of it was applied."
        cause "A gateway, or whoever controls it, hands out what is not meant for this host."
        cure "Treat the gateway as taken over."

    40083 Critical ConfigurationDamaged { path, reason }
        "the configuration that was kept in {path} is refused: {reason}; it is not used"
        meaning "It is not what the server signed. Only the packs of the configuration file on this host run until the server has sent it again."
        cause "Somebody changed the file, or the disk damaged it."
        cure "Nothing to do if the disk did it. Otherwise find out who can write into the state folder."

    40084 Critical ConfigurationUnusable { group, reason }
        "the configuration that the server sent for group {group} cannot be used here: {reason}; nothing of it was applied"
        meaning "A pack of it cannot be run on this host. The one before stays in use, if there is one; nothing older than this one is taken any more."
        cause "A pack for a newer version of the agent, or with the name of one that the configuration file on this host names."
        cure "Correct the pack and apply it again: `wardline pack apply FILE`; or upgrade the agent."

    40085 Critical PackUnusable { pack, reason }
        "pack {pack} is not sent to any agent: {reason}"
        meaning "Agents that are to run it keep the configuration that they have until this is cured."
        cause "Somebody wrote into the database by hand, or a backup of one table was put back."
        cure "Apply the pack again: `wardline pack apply FILE`. Find out who can write into the database."

    40090 Information IssuingCaRolled { key, to, act }
        "channel certificates are issued by a new issuing CA from now on, key id {key}, valid until {to}, by {act}"
        meaning "Joining and renewing get certificates of it. Those of the one before stay good until they end."
        cause "A third of the life of the one before was left, or an operator ran `wardline ca rotate`."
        cure "Nothing to do. `wardline ca list` shows how many still have a certificate of an older one."

    40091 Warning RootKeyNeeded { what, to, path, reason }
        "{what}, valid until {to}, cannot be made anew: {path}: {reason}"
        meaning "Only the root makes issuing CAs and duty certificates. What is in use goes on to be used; when it ends, nobody can join or renew any more, or agents believe no answer."
        cause "The root's key was moved away from this server, as it should be."
        cure "Put it back, mode 0600 and the server's own user's. What is due is made within an hour, or by `wardline ca rotate` at once. Then move it away again."

    40092 Information DutyCertificateRenewed { server, to }
        "the duty key of {server} has a new certificate, valid until {to}"
        meaning "The key is the same. What the server promises is believed until then."
        cause "A third of the life of the one before was left, or there is a new duty key."
        cure "Nothing to do."

    40093 Warning CertificatesRevoked { service, act }
        "the channel certificates of {service} were revoked by {act}"
        meaning "Sessions that stand by them end now, and no new one is made with them. Hosts come home by their identity keys."
        cause "An operator ran `wardline ca revoke` or `wardline ca rotate --revoke`."
        cure "Nothing to do. A host that does not come back says event 40051; one that is not to come back: `wardline agent remove NAME`."

    40095 Critical CertificateChain { path, reason }
        "the certificate in {path} is not one of this group: {reason}"
        meaning "Nobody in the group would believe the channel certificate: nothing leads from it to the group's root."
        cause "Another CA issued it than the group's, or than the one that `own_pki` on the server names; or it is damaged."
        cure "Have it issued by that CA: docs/operations/own-pki.md. A host whose certificates come from the group itself joins anew."

    40096 Critical OwnCaRefused { path, reason }
        "the CA certificate in {path}, which `own_pki` names, is refused: {reason}"
        meaning "Nothing was changed; the server does not start."
        cause "The file is missing, holds no certificate of a CA, or the root's key is not there to certify it."
        cure "Name the certificate of the one CA that issues channel certificates: docs/operations/own-pki.md."

    40097 Warning CertificateEnds { path, to }
        "the channel certificate from {path} is valid until {to}, and there is no newer one in that file"
        meaning "A third of its life or less is left. After its end there is no connection, and what is found is kept in the queue."
        cause "Certificates of the company's own PKI are not renewed by the program. Said again every day."
        cure "Have a new one issued, and put key and certificate in place: docs/operations/own-pki.md. It is taken without a restart."

    40098 Warning CertificateNotTaken { path, reason, seconds }
        "the certificate in {path} is not used: {reason}; the one before stays in use; next try in {seconds} s, or when the files change"
        meaning "There is another certificate or key in the files than the one in use, and it misses a need or was not registered."
        cause "The reason names what it misses, or each parent that was asked."
        cure "Have it issued as docs/operations/own-pki.md shows, and put key and certificate in place again."

    40099 Information OwnCaTaken { path, name, to }
        "channel certificates come from the CA {name} in {path} from now on, until {to}; the built-in CA issues none"
        meaning "The group's root has certified the CA's key, and the trust log has it."
        cause "`own_pki` names it, in the server's configuration."
        cure "Nothing to do. Certificates that the built-in CA issued are good until they end; they are not renewed."

    40100 Critical LogForked { parent, kept, shown }
        "the trust log that came by {parent} ({shown}) does not continue the one that was here ({kept}); nothing that came with it was applied"
        meaning "The server shows this host another history than before, or cannot prove that it is the same. What is here stays in use; delivery goes on."
        cause "The server's database was exchanged for another copy, the server was taken over, or a gateway spoils proofs."
        cure "Look for event 40103 on the server: if it is there, the server shows the other history. Find out who changed its database. If it was restored on purpose: `wardline-server accept-restore`."

    40101 Critical LogOlder { parent, kept, shown }
        "the trust log that came by {parent} ({shown}) is older than the one that was here ({kept}); nothing that came with it was applied"
        meaning "The server has forgotten entries that this host knows of: removals, revocations and packs may be among them. What is here stays in use; delivery goes on."
        cause "The server's database was put back to an earlier state together with what it keeps beside it."
        cure "Find out who did that. If it was restored on purpose, stop the server and run `wardline-server accept-restore --config FILE`."

    40102 Warning LogRestored { parent, kept, act, number }
        "the trust log that came by {parent} was restored by {act} with entry {number}; the one that was here ({kept}) is given up"
        meaning "A signed entry says that the group's log goes on from an earlier state. This host follows it."
        cause "An operator ran `wardline-server accept-restore`."
        cure "Nothing to do. If nobody restored the server, find out who can write its files."

    40103 Critical LogDisowned { agent, shown, own }
        "{agent} knows a trust log ({shown}) that this one ({own}) does not continue; a server of this group has signed it"
        meaning "The database was rolled back, or it is another copy: what was decided in the meantime is missing here. The agent takes no configuration until this is cured."
        cause "The database and the file `head` were put back together, by a restore or by somebody who can write them."
        cure "Find out who did that. If it was restored on purpose, stop the server and run `wardline-server accept-restore --config FILE`."

    40104 Warning HeadNotSigned { agent, reason }
        "{agent} says that it knows another trust log, and cannot prove it: {reason}"
        meaning "No duty key of this group that is known here has signed it. It says nothing about the server."
        cause "The file `head` on that host is damaged, or the agent lies."
        cure "Look at the host. If nobody tampers with it, let it join anew."

    40105 Warning RestoreAccepted { act, from, lost }
        "{act} accepted that the trust log was restored: it goes on from {from}, {lost} is given up"
        meaning "The log has an entry that says so. Agents follow it; what was given up is forgotten."
        cause "Somebody ran `wardline-server accept-restore`."
        cure "Remove, revoke and apply again what was removed, revoked and applied since the backup was made."

    40106 Critical HeadDamaged { path, reason }
        "the head of the trust log that was kept in {path} is refused: {reason}; the next one that comes is believed"
        meaning "This host cannot tell whether the server's log continues the one that it knew."
        cause "Somebody changed the file, or the disk damaged it."
        cure "Nothing to do if the disk did it. Otherwise find out who can write into the state folder."

    40107 Critical KeptUnusable { group, reason }
        "the configuration that was kept for group {group} cannot be used here: {reason}; none is in use until another comes"
        meaning "It was good when it came. Only the packs of the configuration file on this host run; the server is asked for it again."
        cause "The configuration file on this host names a pack of the same name now, or the agent was replaced by an older one."
        cure "Take the pack out of the configuration file, or upgrade the agent, and start it again."

    40108 Critical LogUnread { number, server }
        "entry {number} of the trust log was signed by {server}, and this program cannot take it: nothing is appended until it can"
        meaning "This server does not know what was decided by that entry and behind it, removals too, and decides nothing about trust itself. What agents send is stored."
        cause "That server runs another version of the program; or somebody deleted or changed an entry in front of this one."
        cure "Replace the program: all servers of a group run one version. If they do, find out who can write into the database."

    40109 Critical LogRowsRemoved { number, rows }
        "{rows} in the table of the trust log from entry {number} on, for which no server vouches, were removed"
        meaning "They were none of the log, and nobody was trusted because of them."
        cause "Somebody wrote into the database: by hand, or a server that was removed."
        cure "Find out who can write into the database, and change the password of a server that was removed."

    40120 Critical GroupLeftOut { group, event }
        "group {group} is left out because of event {event}, which stands before this one; other groups of this agent go on"
        meaning "Nothing is watched for this group until the agent is started again. What waits in its queue is kept."
        cause "A file in the group's folder is missing or wrong, or a workflow of the group ended by itself."
        cure "Cure what the event before this one says, then start the agent again."

    40121 Critical NoGroupLeft { path }
        "none of the groups in {path} can be run; the agent ends"
        meaning "Each of them was left out, and why was said before."
        cause "See event 40120, one for each group."
        cure "Cure what the events before this one say, then start the agent again."

    40130 Critical MachineKeyMissing { path }
        "the machine key {path} is not there, and nothing opens without it that rests in its folder: keys, queues, secrets"
        meaning "The program does not start, and makes no other machine key: what the lost one protects would be lost for good."
        cause "The file was removed, or the folder was copied or restored without it, as by a thief or by a backup that leaves it out."
        cure "Put the file back, from a backup or from the machine that the folder came from. If there is none, move the folder away and join anew; a server is set up anew or restored from a backup."

    40131 Critical ProtectionUnusable { path, reason }
        "what protects the private files in {path} cannot be used: {reason}"
        meaning "Nothing that rests there can be opened, and the program does not start."
        cause "The machine key is another machine's, or it or a file in the folder protect is damaged or open to others."
        cure "Restore machine.key and the folder protect from a backup of this machine, correct the modes that are named, and start again."

    40132 Warning MasterKeyUnusable { path }
        "the master key {path} does not open; what it protected does not open either"
        meaning "Everything else is used. A private file or queue that it protects is named when it is read."
        cause "The file is damaged, or comes from another machine."
        cure "Restore the file from a backup. If nothing is missing, remove it."

    40133 Warning MemoryNotLocked { path }
        "the kernel does not lock all memory of the keys of {path}; they could be written to swap"
        meaning "Everything works. Core dumps are off in any case."
        cause "The limit of locked memory (RLIMIT_MEMLOCK) is too low for this program's keys, of which each takes a page."
        cure "Raise it, with LimitMEMLOCK= in the unit say, or encrypt the swap."

    40134 Warning QueueRowDamaged { group, row }
        "queue of {group}: {row} does not open and is set aside"
        meaning "What it held is lost and counted in its place; everything else is delivered."
        cause "The disk has changed the queue's file, or somebody has."
        cure "Look at the disk. `wardline gap list` at the server shows what was lost."

    40135 Warning RootNotExported { path, reason }
        "the root's key was not taken off the server, to {path}: {reason}"
        meaning "It lies in the group's folder as before."
        cause "The file is there already, or its folder cannot be written."
        cure "Name another file, in a folder that the server's user may write, and try again."

    40136 Information RootExported { path, pin }
        "the key of the root {pin} is in {path}, in the clear, and not on the server any more"
        meaning "The server goes on; only a new issuing CA or duty certificate needs the key, every three years or so (40091)."
        cause "`wardline-server export-root`."
        cure "Take the file to where no network leads, and see that two people can find it."
    40150 Warning PluginsUnderAgent { user }
        "plugins run under this agent's own user, {user}: there is no `runas` in the configuration"
        meaning "A plugin can read the agent's keys and queue. Checks with `run_as` get no credential."
        cause "wardline-runas is not set up on this host, or the configuration does not name its socket."
        cure "Set it up: docs/operations/run-as.md."

    40151 Critical RunAsUnusable { path, reason }
        "wardline-runas cannot be asked by {path}: {reason}; no plugin runs until it can"
        meaning "Plugins are never run under the agent's own user instead. Their checks are unknown."
        cause "wardline-runas does not run, its policy names another user, or somebody else than root listens there."
        cure "See what wardline-runas says: docs/operations/run-as.md. `wardline-agent doctor` looks at it, too."

    40152 Warning CredentialWithheld { workflow, profile, reason }
        "check {workflow} does not run: it needs a credential of the profile {profile}, and {reason}"
        meaning "The check is unknown. It does not run without the credential that it asks for."
        cause "It cannot be used here, nothing can be encrypted to this host yet, or plugins run under the agent's own user."
        cure "The reason says which. `wardline profile explain` shows what this host is to get."

    40153 Critical PolicyRefused { file, reason }
        "the policy {file} is refused: {reason}"
        meaning "wardline-runas does not start: nobody but root may say which users it becomes."
        cause "The file belongs to somebody else, others may write it or a folder above it, or something in it is wrong."
        cure "Correct what the reason names. A policy is root's, mode 0644 or less: docs/operations/run-as.md."

    40154 Critical RunAsNotStarted { reason }
        "wardline-runas does not start: {reason}"
        meaning "Plugins do not run on a host whose agent asks it."
        cause "It does not run as root, its runtime folder is on a disk, its socket cannot be made, or processes of before cannot be ended."
        cure "Correct what the reason names: docs/operations/run-as.md."

    40155 Warning RunAsRefused { user, reason }
        "a request by user {user} was refused: {reason}"
        meaning "Nothing was run. Each reason is said once."
        cause "A pack names a program or user that the policy does not allow, or somebody else than the agent asks."
        cure "Allow it in the policy file if it is right, and start wardline-runas again; otherwise find out who asks for that."

    40156 Warning RunAsLeftovers { path, count }
        "{count} folders of secrets were left in {path} by an earlier process, and are removed"
        meaning "The process before was killed in the middle of runs. What ran then has been ended, too."
        cause "It was killed by SIGKILL or for lack of memory."
        cure "Nothing to do, if it does not come again."

    40157 Critical UserNotFreed { user, reason }
        "something that runs under user {user} cannot be ended: {reason}; this number is not given out again"
        meaning "One run less can be at the same time, until wardline-runas is started again."
        cause "A process of a plugin hangs in the kernel, on a file system whose server is away for example."
        cure "Find the process with `ps -u`; see what it waits for."

    40160 Critical GroupKeyMissing { path, accounts }
        "the group key {path} is not there, and the secrets of Run As accounts in the database rest under it: {accounts}"
        meaning "The server does not start: with a new key it could never again open what it has."
        cause "The file was removed, or the server was moved without it."
        cure "Restore it from a backup, with `machine.key` and `protect/` of the same state folder."

    40161 Critical GroupKeyUnusable { path, reason }
        "the group key {path} cannot be used: {reason}"
        meaning "The server does not start: the secrets of Run As accounts rest under this key."
        cause "The file is damaged, comes from another machine, or what protects it here was exchanged."
        cure "Restore it from a backup, with `machine.key` and `protect/` of the same state folder."

    40162 Warning LessSecureDistribution { group, accounts }
        "in group {group} Run As accounts may be distributed to every agent; those that are: {accounts}"
        meaning "Whoever takes over any host of the group has these credentials, also on a host that joins later."
        cause "`less_secure_distribution = true` in server.toml, or accounts were distributed like that while it was."
        cure "Name the agents: `wardline account update ACCOUNT --to AGENT,AGENT`; then leave `less_secure_distribution` out."

    40180 Critical SealingKeyRefused { agent, address, reason }
        "a sealing key in the name of {agent} that came from {address} was refused: {reason}"
        meaning "Somebody wants secrets of this health service to be encrypted to a key that it has not vouched for, or that is unfit. Nothing is."
        cause "A gateway replaced or replayed the key, or the clock of the health service is wrong."
        cure "Compare `wardline-agent certs` on the host with `wardline keys log show`; look at the clock; if both fit, treat the gateway as taken over."

    40181 Critical SealingKeyForeign { group, key }
        "the trust log of group {group} has the sealing key {key} under this host's name, which this host has not made"
        meaning "Secrets for this host were to be encrypted to a key of somebody else. This host publishes its own again."
        cause "Somebody holds this host's identity key, a copy of the host for example."
        cure "Look who else runs with this host's keys. Remove and join it anew if it was copied: `wardline agent remove`."

    40182 Warning SealingKeyLost { path, reason }
        "the sealing key {path} cannot be used: {reason}; a new one is made"
        meaning "Secrets that were encrypted to it must be sent again. The server does that by itself when it has the new key."
        cause "The file was damaged or comes from another machine."
        cure "Nothing to do, if event 40006 follows."

    40183 Critical AccountUnusable { account, reason }
        "the Run As account {account} goes to nobody: {reason}"
        meaning "What the database holds of the account is not what the trust log speaks of, or does not open. Hosts keep what they have."
        cause "Somebody has changed or put back a row of the database, or the group key is another one."
        cure "Give the secret again: `wardline account update ACCOUNT`, with `--user` where it has one. See who can write the database."

    40200 Information PrincipalBound { service, principal, act }
        "the Kerberos principal of {service} is {principal} from now on, by {act}"
        meaning "By this principal, exactly as it is written, the hops of this health service may be proved; by no other."
        cause "An operator gave it one, or took it away."
        cure "Nothing to do. If nobody should have: `wardline keys log show` says who did, `wardline agent principal NAME none` takes it away."

    40201 Warning GroupKeytabUnusable { path, reason }
        "the keytab {path} cannot be used for the group's own principal: {reason}; no KDC can vouch for hosts that join"
        meaning "Hosts that ask to join by Kerberos show a code and wait for an operator. It is looked for again by itself."
        cause "The keytab is missing, is not this program's to read, or has no key of MSOMHSvc/GROUP; or there is no GSSAPI library."
        cure "Have the key of that principal written into the keytab, mode 0600 and the server's own user's; no restart is needed."

    40210 Critical KerberosUnusable { reason }
        "Kerberos cannot be used here: {reason}"
        meaning "The program does not start: what it is configured for cannot be."
        cause "[kerberos] is missing where a parent is to be reached by Kerberos, others could change krb5_conf or a folder above it, or the environment could not be replaced."
        cure "Correct the configuration as the reason says."

    40211 Warning KerberosRefused { address, reason }
        "a peer at {address} was refused, who meant to prove itself by Kerberos: {reason}"
        meaning "Not a byte of it was read as data."
        cause "The reason names it: keys that are too weak, a principal that is not to come here, a token that is bound to another channel or was there before, or this host's keytab."
        cure "See the reason. A principal's realm is listed in `realms` of [kerberos]; keys are AES."
}

/// The catalogue's entry of a number.
pub fn explain(number: u32) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_in_order() {
        assert!(CATALOGUE.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn texts_use_exactly_their_fields() {
        for entry in CATALOGUE {
            for field in entry.fields {
                assert!(entry.text.contains(&format!("{{{field}}}")), "{} leaves out {field}", entry.number);
            }
            assert_eq!(entry.text.matches('{').count(), entry.fields.len(), "{}", entry.number);
        }
    }
}
