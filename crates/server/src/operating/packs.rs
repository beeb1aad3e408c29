//! Which agents run which packs.

use wardline_packs::Pack;
use wardline_proto::configuration::{LIMIT, can_carry, packs_to_xml};
use wardline_proto::trust::{self, Fact};
use wardline_sdk::{Kind, PackOrder};
use wardline_secrets::signature::sha256;
use wardline_secrets::view::View;

use super::{Decision, Refusal, is_pattern, profiles, refuse};

/// The most packs of a group.
const PACKS: usize = 1000;
/// The most bytes of a pack's text.
pub const TEXT: usize = 1024 * 1024;
/// What a configuration has beside its packs, at most.
const BESIDE: usize = 64 * 1024;

/// Reads the pack that an operator wants to be run.
///
/// # Errors
/// It is none: the place, and what would be allowed there.
pub fn read(order: &PackOrder) -> Result<Pack, Refusal> {
    let next = "correct it; `wardline pack lint FILE` shows the same without a server";
    if order.text.len() > TEXT {
        return refuse(Kind::Invalid, format!("{} has more than {TEXT} bytes", order.file), next);
    }
    if !can_carry(&order.text) {
        return refuse(Kind::Invalid, format!("{} has characters that XML cannot carry", order.file), next);
    }
    Pack::parse(&order.file, &order.text).or_else(|error| refuse(Kind::Invalid, error.to_string(), next))
}

/// Whether all packs of the group, with this one, fit into one configuration; `others` are the texts of the others.
///
/// # Errors
/// They do not.
pub fn fits<'a>(order: &PackOrder, others: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let size = |text: &str| packs_to_xml(&[("x".repeat(64), text.into())]).len();
    let all = others.map(size).fold(size(&order.text) + BESIDE, usize::saturating_add);
    if all > LIMIT {
        let detail = format!("all packs of the group together would have more than {LIMIT} bytes");
        return refuse(Kind::Conflict, detail, "remove one: `wardline pack list`, `wardline pack remove NAME`");
    }
    Ok(())
}

/// Whether there are the Run As profiles that a pack's checks name.
///
/// # Errors
/// There is one not: its check would have no credentials anywhere.
pub fn name(profiles: &[String], view: &View) -> Result<(), Refusal> {
    match profiles.iter().find(|profile| profiles::known(profile, view).is_err()) {
        None => Ok(()),
        Some(missing) => {
            let detail = format!("a check runs as Run As profile {missing}, which is not there");
            refuse(Kind::Conflict, detail, &format!("make it, then apply again: `wardline profile create {missing}`"))
        }
    }
}

/// Agents run a pack from now on. `good` says whether the text that is kept of it is the right one.
///
/// # Errors
/// The agents are no pattern, or there are too many packs.
pub fn apply(pack: &str, order: &PackOrder, good: bool, view: &View) -> Decision {
    let known = view.pack(pack);
    let agents = order.agents.as_deref().or(known.map(|known| known.agents.as_str())).unwrap_or("*");
    if !is_pattern(agents) {
        let detail = format!("{agents:?} is neither a host name nor one with one `*` at its beginning or end");
        return refuse(Kind::Invalid, detail, "see `wardline pack apply --help`");
    }
    if known.is_none() && view.packs().count() >= PACKS {
        let next = "remove one: `wardline pack list`, `wardline pack remove NAME`";
        return refuse(Kind::Conflict, format!("the group has {PACKS} packs, the most there may be"), next);
    }
    let text = sha256(&[order.text.as_bytes()]);
    if good && known.is_some_and(|known| known.text == text && known.agents == agents) {
        return Ok(Vec::new());
    }
    Ok(vec![Fact::Pack(trust::Pack { name: pack.to_owned(), text: text.to_wire(), agents: agents.to_owned() })])
}

/// Nobody runs a pack any more.
///
/// # Errors
/// There is none of this name.
pub fn remove(name: &str, view: &View) -> Decision {
    match view.pack(name) {
        Some(_) => Ok(vec![Fact::PackRemoved(trust::PackRemoved { name: name.to_owned() })]),
        None => refuse(Kind::NotFound, format!("there is no pack {name}"), "`wardline pack list` shows them"),
    }
}
