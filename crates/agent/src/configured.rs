//! What the server wants this host to run, beside what its own configuration file names.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wardline_connector::accounts::Accounts;
use wardline_connector::journal;
use wardline_connector::outbox::Outbox;
use wardline_packs::Pack;
use wardline_proto::configuration::{Configuration, Content};
use wardline_proto::event::Event;

use crate::clock::Measure;
use crate::workflow::{self, Ended, Plugins};

/// The packs of a configuration, on a host whose own configuration file names these.
///
/// # Errors
/// One of them cannot be run here: why not.
pub fn packs<'a>(own: impl IntoIterator<Item = &'a str>, content: &Content) -> Result<Vec<Pack>, String> {
    let own: Vec<_> = own.into_iter().collect();
    let mut packs = Vec::with_capacity(content.packs.len());
    for (name, text) in &content.packs {
        let pack = Pack::parse(name, text).map_err(|error| format!("pack {error}"))?;
        if pack.name != *name {
            return Err(format!("pack {name} calls itself {}", pack.name));
        }
        if own.contains(&pack.name.as_str()) {
            return Err(format!("the configuration file on this host has a pack {name} too"));
        }
        packs.push(pack);
    }
    Ok(packs)
}

/// Runs the packs of the host without a break, and beside them those of each configuration until the next: until `stop`,
/// or until the queue takes nothing any more.
///
/// # Errors
/// A workflow ended by itself; see [`workflow::run`].
pub async fn run(
    own: Vec<Pack>,
    mut active: watch::Receiver<Option<Arc<Configuration>>>,
    accounts: Arc<Accounts>,
    plugins: Plugins,
    measure: Arc<Option<Measure>>,
    outbox: Outbox,
    stop: CancellationToken,
) -> Result<(), Ended> {
    let names: Vec<_> = own.iter().map(|pack| pack.name.clone()).collect();
    let host = workflow::run(own, plugins.clone(), Arc::clone(&measure), outbox.clone(), stop.clone());
    tokio::pin!(host);
    loop {
        let configuration = active.borrow_and_update().clone();
        // Its workflows find the accounts that come with it.
        if !taken(&accounts, configuration.as_deref(), &outbox).await {
            return host.await;
        }
        // It was checked when it was taken.
        let given = configuration.as_ref().and_then(|c| packs(names.iter().map(String::as_str), &c.content).ok());
        say(configuration.as_deref());
        let turn = stop.child_token();
        let (given, measure, outbox) = (given.unwrap_or_default(), Arc::clone(&measure), outbox.clone());
        let turning = workflow::run(given, plugins.clone(), measure, outbox.clone(), turn.clone());
        tokio::pin!(turning);
        let replaced = async {
            loop {
                match next(&mut active, configuration.as_deref()).await {
                    (_, true) => return,
                    // The accounts that come with it are the workflows' from their next run on.
                    (now, false) if taken(&accounts, now.as_deref(), &outbox).await => say(now.as_deref()),
                    // The queue has ended, and the workflows with it.
                    (_, false) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            ended = &mut host => {
                turn.cancel();
                return turning.await.and(ended);
            }
            ended = &mut turning => return ended,
            () = replaced => {}
        }
        turn.cancel();
        tokio::select! {
            ended = &mut host => return ended,
            ended = &mut turning => ended?,
        }
        // What the workflows put last is what those that take their place go on from.
        if outbox.settled().await.is_err() {
            return host.await;
        }
    }
}

fn say(configuration: Option<&Configuration>) {
    if let Some(Configuration { cookie, content, .. }) = configuration {
        let (group, cookie) = (content.group.to_string(), cookie.to_string());
        journal::emit(Event::ConfigurationActive { group, cookie });
    }
}

/// Takes the accounts of a configuration; whether the program goes on.
async fn taken(accounts: &Arc<Accounts>, configuration: Option<&Configuration>, outbox: &Outbox) -> bool {
    match configuration {
        Some(configuration) => accounts.take(&configuration.content, outbox).await.is_ok(),
        None => true,
    }
}

/// Waits for the next configuration; whether it has other packs. For the same ones the workflows need not be stopped.
async fn next(
    active: &mut watch::Receiver<Option<Arc<Configuration>>>,
    before: Option<&Configuration>,
) -> (Option<Arc<Configuration>>, bool) {
    let packs = |configuration: Option<&Configuration>| configuration.map(|c| c.content.packs.clone());
    if active.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    // One with other packs is looked at again by whoever waits.
    let now = active.borrow().clone();
    let other = packs(now.as_deref()).unwrap_or_default() != packs(before).unwrap_or_default();
    (now, other)
}

#[cfg(test)]
mod tests {
    use wardline_proto::Role;
    use wardline_proto::message::Digest;

    use super::*;

    #[test]
    fn a_pack_that_cannot_be_run_here_is_named_with_its_place() {
        let content = |packs: &[(&str, &str)]| Content {
            group: "north".parse().unwrap(),
            name: "web1.test".parse().unwrap(),
            role: Role::Agent,
            recovery: None,
            disowned: vec![],
            parents: vec![],
            run_as: vec![],
            accounts: vec![],
            packs: packs.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect(),
        };
        let (a, b) = (("a", "[pack]\nname = \"a\"\n"), ("b", "[pack]\nname = \"b\"\n"));
        let names = |own: &[&str], given: &[_]| {
            packs(own.iter().copied(), &content(given))
                .map(|packs| packs.into_iter().map(|p| p.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["c"], &[a, b]).unwrap(), ["a", "b"]);
        assert!(names(&["b"], &[a, b]).unwrap_err().contains("this host has a pack b too"));
        assert!(names(&[], &[a, ("c", b.1)]).unwrap_err().contains("pack c calls itself b"));
        let error = names(&[], &[a, ("b", "[pack]\nname = \"b\"\n[[check]]\nbad = 1\n")]).unwrap_err();
        assert!(error.starts_with("pack b:4:1: "), "{error}");
    }

    #[tokio::test]
    async fn workflows_are_stopped_for_other_packs_and_for_nothing_else() {
        let configuration = |version, parents: &[&str], text: &str| {
            let content = Content {
                group: "north".parse().unwrap(),
                name: "web1.test".parse().unwrap(),
                role: Role::Agent,
                recovery: None,
                disowned: vec![],
                parents: parents.iter().map(|name| name.parse().unwrap()).collect(),
                run_as: vec![],
                accounts: vec![],
                packs: vec![("a".into(), text.into())],
            };
            Some(Arc::new(Configuration { cookie: Digest([version; 32]), version: version.into(), content }))
        };
        let (sender, mut active) = watch::channel(configuration(1, &[], "a"));
        let before = active.borrow_and_update().clone();
        for (to, other) in [
            (configuration(2, &["gw1.test"], "a"), false),
            (configuration(3, &[], "a"), false),
            (configuration(4, &[], "b"), true),
        ] {
            sender.send_replace(to.clone());
            assert_eq!(next(&mut active, before.as_deref()).await, (to, other));
        }
    }
}
