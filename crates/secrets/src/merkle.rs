//! The Merkle tree of RFC 9162 section 2.1 over SHA-256: its head, its proofs, and their verification. No IO.
//!
//! A proof speaks about roots and does not bind the sizes: one root fits proofs for more than one size. Size and root
//! must come together from whoever vouches for the head, and must be covered by one signature.

use std::ops::Range;

use rpds::VectorSync;
use wardline_proto::message::Digest;

use crate::signature::sha256;

/// The hash of a leaf: of a zero byte and the entry (RFC 9162, 2.1.1). A verifier computes it from the entry itself: a
/// leaf hash taken from elsewhere may be that of an interior node.
pub fn leaf(entry: &[u8]) -> Digest {
    sha256(&[&[0], entry])
}

/// The hash of an interior node: of a byte 1 and both children (RFC 9162, 2.1.1).
fn interior(left: Digest, right: Digest) -> Digest {
    sha256(&[&[1], &left.0, &right.0])
}

/// The root of the tree without entries: the hash of nothing (RFC 9162, 2.1.1).
fn empty() -> Digest {
    sha256(&[])
}

/// What a tree is known by: how many leaves it has, and its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of leaves.
    pub size: u64,
    /// The hash over all of them (RFC 9162, 2.1.1); SHA-256 of nothing when there are none.
    pub root: Digest,
}

/// A tree that grows by one leaf at a time. It keeps the hash of every complete subtree: 64 bytes a leaf, of which clones
/// share almost all.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// By height: the complete subtrees of 2^height leaves, from the left. The lowest are the leaves.
    levels: Vec<Row>,
}

/// Hashes in a row that only grows.
#[derive(Clone, Debug, Default)]
struct Row {
    /// All but the last few, which clones share.
    full: VectorSync<[Digest; PIECE]>,
    /// Those behind them, never as many.
    rest: Vec<Digest>,
}

/// How many hashes are shared together.
const PIECE: usize = 64;

impl Row {
    fn len(&self) -> usize {
        self.full.len() * PIECE + self.rest.len()
    }

    fn get(&self, position: usize) -> Option<Digest> {
        let (piece, place) = (position / PIECE, position % PIECE);
        let found = self.full.get(piece).map_or_else(|| self.rest.get(place), |full| full.get(place));
        found.copied()
    }

    fn last(&self) -> Option<Digest> {
        self.get(self.len().checked_sub(1)?)
    }

    fn push(&mut self, hash: Digest) {
        self.rest.push(hash);
        if let Ok(piece) = self.rest.as_slice().try_into() {
            self.full.push_back_mut(piece);
            self.rest.clear();
        }
    }
}

impl Tree {
    /// Adds the hash of a leaf, as [`leaf`] makes it.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for level in &mut self.levels {
            let left = level.last().filter(|_| level.len() % 2 == 1);
            level.push(hash);
            let Some(left) = left else { return };
            hash = interior(left, hash);
        }
        let mut level = Row::default();
        level.push(hash);
        self.levels.push(level);
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The hash of the newest leaf.
    pub fn last(&self) -> Option<Digest> {
        self.levels.first().and_then(Row::last)
    }

    /// The head of the tree as it is.
    pub fn head(&self) -> Head {
        let peaks = self.levels.iter().filter(|level| level.len() % 2 == 1).filter_map(Row::last);
        let root = peaks.reduce(|right, left| interior(left, right)).unwrap_or_else(empty);
        Head { size: self.size(), root }
    }

    /// The root when the tree had this many leaves; `None` when it never had.
    pub fn root_at(&self, size: u64) -> Option<Digest> {
        if size == 0 { Some(empty()) } else { self.subtree(0..size) }
    }

    /// The proof that the leaf at an index, counted from 0, is in the tree of this size: PATH of RFC 9162, 2.1.3.1.
    /// `None` when the tree of this size has no such leaf, or the tree never had this size.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Digest>> {
        if index >= size || size > self.size() {
            return None;
        }
        let (mut range, mut proof) = (0..size, Vec::new());
        while range.end - range.start > 1 {
            proof.insert(0, self.descend(&mut range, index)?);
        }
        Some(proof)
    }

    /// The proof that the tree of the new size begins with the tree of the old size: PROOF of RFC 9162, 2.1.4.1. It is
    /// empty when the sizes are equal, and when the old size is 0, which the RFC leaves out. `None` when the old size
    /// is the larger one, or the tree never had the new size.
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Digest>> {
        if old > new || new > self.size() {
            return None;
        }
        let Some(last) = old.checked_sub(1) else { return Some(Vec::new()) };
        let (mut range, mut proof) = (0..new, Vec::new());
        while range.end != old {
            proof.insert(0, self.descend(&mut range, last)?);
        }
        // The subtree that ends the old tree; the verifier has it already when it is the whole old tree.
        if range.start != 0 {
            proof.insert(0, self.subtree(range)?);
        }
        Some(proof)
    }

    /// Goes from a subtree of two leaves or more to the child that has the leaf, and answers the other child's hash.
    fn descend(&self, range: &mut Range<u64>, leaf: u64) -> Option<Digest> {
        // The left child has the largest power of two that is smaller than the number of leaves.
        let Range { start, end } = *range;
        let middle = start + (1 << (end - start - 1).ilog2());
        *range = if leaf < middle { start..middle } else { middle..end };
        self.subtree(if leaf < middle { middle..end } else { start..middle })
    }

    /// The hash of a subtree that has leaves: its complete parts, joined from the right.
    fn subtree(&self, range: Range<u64>) -> Option<Digest> {
        let (mut end, mut hash) = (range.end, None);
        while end > range.start {
            let height = (end - range.start).trailing_zeros();
            let position = usize::try_from((end >> height) - 1).ok()?;
            let left = self.levels.get(usize::try_from(height).ok()?)?.get(position)?;
            hash = Some(hash.map_or(left, |right| interior(left, right)));
            end -= 1 << height;
        }
        hash
    }
}

/// Whether a proof shows that the leaf with this hash is at this index, counted from 0, of the tree with this head
/// (RFC 9162, 2.1.3.2). The proof for the only leaf of a tree is empty; nothing is in the tree of size 0.
pub fn verify_inclusion(leaf: Digest, index: u64, head: &Head, proof: &[Digest]) -> bool {
    index < head.size && climb(index, head.size - 1, leaf, proof).is_some_and(|(_, root)| root == head.root)
}

/// Whether a proof shows that the tree with the new head begins with all of the tree with the old head, in its order
/// (RFC 9162, 2.1.4.2). The RFC leaves out equal sizes and size 0. For both, the proof must be empty. Equal sizes must
/// have equal roots, and size 0 must have the root of the empty tree. Every tree follows the empty one: nothing is
/// shown about the new root then.
pub fn verify_consistency(old: &Head, new: &Head, proof: &[Digest]) -> bool {
    if old.size > new.size || [old, new].iter().any(|head| head.size == 0 && head.root != empty()) {
        return false;
    }
    if old.size == 0 || old.size == new.size {
        return proof.is_empty() && (old.size == 0 || old.root == new.root);
    }
    // An empty proof fails also where the old root takes the place of its first node.
    let Some((first, rest)) = proof.split_first() else { return false };
    let (first, rest) = if old.size.is_power_of_two() { (&old.root, proof) } else { (first, rest) };
    let height = (old.size - 1).trailing_ones();
    climb((old.size - 1) >> height, (new.size - 1) >> height, *first, rest) == Some((old.root, new.root))
}

/// From a node, counted on its level from 0, up to the root of the tree that ends with it and the root of the whole
/// tree. `last` is the last node of the level. `None` when the proof is too long or too short.
fn climb(node: u64, last: u64, hash: Digest, proof: &[Digest]) -> Option<(Digest, Digest)> {
    let (mut node, mut last, mut old, mut new) = (node, last, hash, hash);
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if node % 2 == 1 || node == last {
            (old, new) = (interior(*sibling, old), interior(*sibling, new));
            // A last node that is a left child has no sibling: up to where it is a right child.
            (node, last) = (node >> node.trailing_zeros(), last >> node.trailing_zeros());
        } else {
            new = interior(new, *sibling);
        }
        (node, last) = (node / 2, last / 2);
    }
    (last == 0).then_some((old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u64) -> Vec<Vec<u8>> {
        (0..count).map(|i| format!("entry {i}").into_bytes()).collect()
    }

    fn tree(entries: &[Vec<u8>]) -> Tree {
        let mut tree = Tree::default();
        entries.iter().for_each(|entry| tree.push(leaf(entry)));
        tree
    }

    fn head(tree: &Tree, size: u64) -> Head {
        Head { size, root: tree.root_at(size).unwrap() }
    }

    /// D[0:k] and D[k:n], with k the largest power of two smaller than n (RFC 9162, 2.1.1).
    fn halves(d: &[Vec<u8>]) -> (&[Vec<u8>], &[Vec<u8>]) {
        d.split_at((0..).map(|power| 1 << power).take_while(|k| *k < d.len()).last().unwrap())
    }

    /// MTH of RFC 9162, 2.1.1.
    fn mth(d: &[Vec<u8>]) -> Digest {
        match d {
            [] => sha256(&[]),
            [entry] => sha256(&[&[0x00], entry]),
            _ => sha256(&[&[0x01], &mth(halves(d).0).0, &mth(halves(d).1).0]),
        }
    }

    /// PATH of RFC 9162, 2.1.3.1.
    fn path(m: usize, d: &[Vec<u8>]) -> Vec<Digest> {
        match d {
            [_] => vec![],
            _ if m < halves(d).0.len() => [path(m, halves(d).0), vec![mth(halves(d).1)]].concat(),
            _ => [path(m - halves(d).0.len(), halves(d).1), vec![mth(halves(d).0)]].concat(),
        }
    }

    /// SUBPROOF of RFC 9162, 2.1.4.1.
    fn subproof(m: usize, d: &[Vec<u8>], b: bool) -> Vec<Digest> {
        match b {
            true if m == d.len() => vec![],
            false if m == d.len() => vec![mth(d)],
            _ if m <= halves(d).0.len() => [subproof(m, halves(d).0, b), vec![mth(halves(d).1)]].concat(),
            _ => [subproof(m - halves(d).0.len(), halves(d).1, false), vec![mth(halves(d).0)]].concat(),
        }
    }

    /// A claim is two hashes that a proof connects, and the proof.
    fn accepted_only_as_it_is(claim: &[Digest], accepts: impl Fn(&[Digest]) -> bool) {
        assert!(accepts(claim));
        for (at, bit) in (0..claim.len()).flat_map(|at| (0..256).map(move |bit| (at, bit))) {
            let mut other = claim.to_vec();
            other[at].0[bit / 8] ^= 1 << (bit % 8);
            assert!(!accepts(&other), "bit {bit} of {at} flipped");
        }
        for at in 2..claim.len() {
            assert!(!accepts(&[&claim[..at], &claim[at + 1..]].concat()) && !accepts(&claim[..at]), "{at} dropped");
        }
        for (at, node) in (2..=claim.len()).flat_map(|at| claim.iter().map(move |node| (at, *node))) {
            assert!(!accepts(&[&claim[..at], &[node], &claim[at..]].concat()), "{node} added at {at}");
        }
    }

    #[test]
    fn roots_are_those_of_the_certificate_transparency_test_vectors() {
        let inputs = ["", "\0", "\x10", " !", "01", "@ABC", "PQRSTUVW", "`abcdefghijklmno"];
        let tree = tree(&inputs.map(|input| input.as_bytes().to_vec()));
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        assert_eq!([1, 7, 8].map(|size| tree.root_at(size).unwrap().to_string()), roots);
    }

    #[test]
    fn every_root_and_proof_is_the_one_of_the_recursive_definition_and_is_accepted() {
        let entries = entries(70);
        let whole = tree(&entries);
        for n in 0..=entries.len() {
            let (size, d) = (n as u64, &entries[..n]);
            let now = Head { size, root: mth(d) };
            assert_eq!((tree(d).head(), head(&whole, size)), (now, now));
            assert!(verify_consistency(&head(&whole, 0), &now, &whole.consistency(0, size).unwrap()));
            for m in 0..n {
                let (index, old) = (m as u64, head(&whole, m as u64 + 1));
                let inclusion = whole.inclusion(index, size).unwrap();
                let consistency = whole.consistency(old.size, size).unwrap();
                assert_eq!((&inclusion, &consistency), (&path(m, d), &subproof(m + 1, d, true)));
                assert!(verify_consistency(&old, &now, &consistency));
                for at in (0..size + 2).chain([u64::MAX]) {
                    assert_eq!(verify_inclusion(leaf(&d[m]), at, &now, &inclusion), at == index);
                }
            }
        }
    }

    #[test]
    fn a_proof_with_anything_changed_is_refused() {
        let entries = entries(33);
        let whole = tree(&entries);
        for (size, index) in (1..=33).flat_map(|size| (0..size).map(move |index| (size, index))) {
            let (old, new) = (head(&whole, index + 1), head(&whole, size));
            let proof = whole.inclusion(index, size).unwrap();
            accepted_only_as_it_is(&[&[leaf(&entries[index as usize]), new.root], &proof[..]].concat(), |claim| {
                verify_inclusion(claim[0], index, &Head { size, root: claim[1] }, &claim[2..])
            });
            let proof = whole.consistency(old.size, size).unwrap();
            accepted_only_as_it_is(&[&[old.root, new.root], &proof[..]].concat(), |claim| {
                verify_consistency(&Head { root: claim[0], ..old }, &Head { size, root: claim[1] }, &claim[2..])
            });
            assert_eq!(verify_consistency(&new, &old, &proof), old == new);
        }
    }

    #[test]
    fn every_tree_follows_the_empty_one_and_only_with_an_empty_proof() {
        let (none, some) = (Tree::default().head(), Head { size: 3, root: leaf(b"") });
        let wrong = Head { size: 0, root: Digest::default() };
        assert!(verify_consistency(&none, &none, &[]) && verify_consistency(&none, &some, &[]));
        for (old, new) in [(none, wrong), (wrong, none), (wrong, wrong), (wrong, some), (some, none)] {
            assert!(!verify_consistency(&old, &new, &[]));
        }
        assert!(!verify_consistency(&none, &none, &[none.root]) && !verify_consistency(&none, &some, &[some.root]));
        assert!(!verify_inclusion(none.root, 0, &none, &[]));
    }

    #[test]
    fn a_fork_is_refused_from_where_it_leaves_the_tree() {
        let entries = entries(33);
        let honest = tree(&entries);
        for fork in 0..33 {
            let forked = tree(&[&entries[..fork], &[b"another".to_vec()], &entries[fork + 1..]].concat());
            for (new, old) in (1..=33).flat_map(|new| (1..=new).map(move |old| (new, old))) {
                let (seen, shown) = (head(&honest, old), head(&forked, new));
                for tree in [&honest, &forked] {
                    let proof = tree.consistency(old, new).unwrap();
                    let same = head(tree, old) == seen && head(tree, new) == shown;
                    assert_eq!(verify_consistency(&seen, &shown, &proof), same, "{fork}: {old} to {new}");
                }
            }
        }
    }

    #[test]
    fn no_size_index_or_length_makes_it_panic() {
        let (whole, half) = (tree(&entries(5)), 1 << 63);
        let numbers = [0, 1, 2, 3, 4, 5, 6, 63, 64, 1 << 32, half - 1, half, half + 1, u64::MAX - 1, u64::MAX];
        for (a, b) in numbers.iter().flat_map(|a| numbers.map(|b| (*a, b))) {
            assert_eq!(whole.inclusion(a, b).is_some(), a < b && b <= 5);
            assert_eq!(whole.consistency(a, b).is_some(), a <= b && b <= 5);
            assert_eq!(whole.root_at(a).is_some(), a <= 5);
            let (old, new) = (Head { size: a, root: Digest([1; 32]) }, Head { size: b, root: Digest([2; 32]) });
            for proof in (0..=130).map(|length| vec![Digest([1; 32]); length]) {
                assert!(!verify_inclusion(leaf(b""), a, &new, &proof) && !verify_consistency(&old, &new, &proof));
            }
        }
    }

    #[test]
    fn a_hundred_thousand_leaves_are_pushed_and_proved() {
        let entries = entries(100_000);
        let whole = tree(&entries);
        let now = whole.head();
        assert_eq!(now, Head { size: 100_000, root: mth(&entries) });
        for (index, entry) in (0..).zip(&entries).step_by(97) {
            let proof = whole.inclusion(index, now.size).unwrap();
            assert!(proof.len() <= 17 && verify_inclusion(leaf(entry), index, &now, &proof));
            let proof = whole.consistency(index, now.size).unwrap();
            assert!(proof.len() <= 18 && verify_consistency(&head(&whole, index), &now, &proof));
        }
    }
}
