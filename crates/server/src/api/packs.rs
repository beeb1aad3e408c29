//! Answers about packs.

use std::sync::Arc;

use wardline_proto::Role;
use wardline_sdk::{Kind, Pack, PackDetail, PackFilter, PackOrder, Page, Problem, Time, hex};
use wardline_secrets::signature::sha256;
use wardline_secrets::view::{self, View, fits};

use super::service::{Service, problem};
use super::trust::{decide, gone, page_of};
use crate::operating::{Refusal, packs};

fn shown(pack: &view::Pack, view: &View) -> Pack {
    let members = view.members().filter(|member| member.role == Role::Agent && fits(&pack.agents, &member.name));
    Pack {
        name: pack.name.clone(),
        agents: pack.agents.clone(),
        members: members.count() as u64,
        hash: hex::encode(&pack.text.0),
        applied_at: Time(pack.applied_at),
    }
}

fn none(name: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no pack {name}"), "`wardline pack list` shows them")
}

pub(super) fn packs(view: &View, filter: &PackFilter) -> Page<Pack> {
    let packs = view.packs().map(|pack| shown(pack, view));
    page_of(packs, filter.limit, filter.cursor.as_deref(), |pack| pack.name.clone())
}

pub(super) async fn pack(service: &Service, name: &str) -> Result<PackDetail, Problem> {
    let view = Arc::clone(&service.store.view().borrow());
    let known = view.pack(name).ok_or_else(|| none(name))?;
    let text = service.store.pack_text(name.to_owned()).await.map_err(problem)?;
    let text = text.filter(|text| sha256(&[text.as_bytes()]) == known.text);
    Ok(PackDetail { pack: shown(known, &view), text })
}

pub(super) async fn apply(service: &Service, order: PackOrder) -> Result<Pack, Problem> {
    let refused = |Refusal(problem): Refusal| problem;
    let read = packs::read(&order).map_err(refused)?;
    let profiles: Vec<_> = read.profiles().map(str::to_owned).collect();
    // Its checks are handed what the profile stands for.
    service.at_home(!profiles.is_empty())?;
    let name = read.name;
    let kept = service.store.pack_text(name.clone()).await.map_err(problem)?;
    let good = kept.as_ref() == Some(&order.text);
    let text = (name.clone(), order.text.clone());
    let applied = name.clone();
    let decision = move |view: &View, _, others: &[(String, String)]| {
        let others = others.iter().filter(|(name, _)| view.pack(name).is_some());
        packs::name(&profiles, view)?;
        packs::fits(&order, others.map(|(_, text)| text.as_str()))?;
        packs::apply(&applied, &order, good, view)
    };
    let decided = service.store.act_with_text(service.act(), text, decision).await.map_err(problem)?;
    decided.map_err(refused)?;
    let view = service.store.view();
    let view = view.borrow();
    view.pack(&name).map(|pack| shown(pack, &view)).ok_or_else(|| gone("the pack"))
}

pub(super) async fn remove(service: &Service, name: &str) -> Result<Pack, Problem> {
    let before = {
        let view = service.store.view();
        let view = view.borrow();
        view.pack(name).map(|pack| shown(pack, &view)).ok_or_else(|| none(name))?
    };
    let name = name.to_owned();
    decide(service, move |view, _| packs::remove(&name, view)).await?;
    Ok(before)
}
