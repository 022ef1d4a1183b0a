//! A disk in memory that fails, fills up, loses power and flips bits, when a test says so.
//!
//! What was written and what is on the platter are kept apart, sector by sector. Every operation is counted; a fault
//! strikes at one of them, and lasts as long as it was told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use fulmar::store::disk::{Files, StoreFile};

use crate::random::Random;

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation does nothing and fails.
    Error,
    /// A write takes a part and fails; anything else fails.
    ShortWrite,
    /// Nothing that needs room succeeds.
    NoSpace,
    /// A sync fails, and what it should have kept is lost or not, sector by sector. Anything else works.
    FailedSync,
    /// The process ends; a write in progress is cut.
    Kill,
    /// The power goes; unsynced sectors are kept or not, each for itself.
    PowerCut,
}

/// When something goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub fault: Fault,
    /// At which operation.
    pub at: u64,
    /// For how many operations.
    pub lasts: u64,
}

#[derive(Debug, Clone)]
pub struct Sim {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    /// As they are on the platter.
    durable: BTreeMap<String, usize>,
    /// Changes of names that are not, in order; each is done whole or not at all.
    changes: Vec<Vec<(String, Option<usize>)>>,
    operations: u64,
    plan: Option<Plan>,
    /// Bytes that it has room for.
    room: Option<usize>,
    is_dead: bool,
    boot: u8,
    random: Random,
}

#[derive(Debug, Clone, Default)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// What an operation is, as far as faults care.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Change,
    Room,
    Write,
    Sync,
}

impl Sim {
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
            operations: 0,
            plan: None,
            room: None,
            is_dead: false,
            boot: 1,
            random: Random::new(seed, 77),
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    pub fn plan(&self, plan: Option<Plan>) {
        self.disk().plan = plan;
    }

    /// From now on it has room for so many bytes.
    pub fn limit(&self, room: Option<usize>) {
        self.disk().room = room;
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.disk().used()
    }

    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Whether the process that used it has ended, or the power is gone.
    pub fn is_dead(&self) -> bool {
        self.disk().is_dead
    }

    /// A process begins, after one was killed.
    pub fn revive(&self) {
        let mut disk = self.disk();
        disk.is_dead = false;
        disk.plan = None;
    }

    /// The power goes, and comes back.
    pub fn cut_power(&self) {
        self.disk().cut_power();
    }

    /// All files: their names and lengths.
    pub fn files(&self) -> Vec<(String, usize)> {
        let disk = self.disk();
        disk.names.iter().map(|(name, node)| (name.clone(), disk.nodes[*node].data.len())).collect()
    }

    /// Turns a bit over.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut disk = self.disk();
        let node = disk.names[name];
        let node = &mut disk.nodes[node];
        node.data[byte] ^= 1 << bit;
        if let Some(durable) = node.durable.get_mut(byte) {
            *durable ^= 1 << bit;
        }
    }

    /// The same files, for another run.
    pub fn copy(&self) -> Self {
        let disk = self.disk();
        let copy = Disk {
            nodes: disk.nodes.clone(),
            names: disk.names.clone(),
            durable: disk.durable.clone(),
            changes: disk.changes.clone(),
            operations: 0,
            plan: None,
            room: None,
            is_dead: false,
            boot: disk.boot,
            random: disk.random.clone(),
        };
        Self { disk: Arc::new(Mutex::new(copy)) }
    }

    pub fn remove_file(&self, name: &str) {
        let mut disk = self.disk();
        disk.names.remove(name);
        disk.durable.remove(name);
    }
}

impl Disk {
    /// Counts an operation and says whether it succeeds; `Ok(true)` if a write is to be cut and fail.
    fn meet(&mut self, kind: Kind) -> io::Result<bool> {
        if self.is_dead {
            return Err(io::Error::other("the process has ended"));
        }
        self.operations += 1;
        let Some(plan) = self.plan else { return Ok(false) };
        if !(plan.at..plan.at + plan.lasts).contains(&self.operations) {
            return Ok(false);
        }
        let failed = || io::Error::from_raw_os_error(5);
        match plan.fault {
            Fault::Error => Err(failed()),
            Fault::ShortWrite if kind == Kind::Write => Ok(true),
            Fault::ShortWrite => Err(failed()),
            Fault::NoSpace if matches!(kind, Kind::Room) => Err(io::ErrorKind::StorageFull.into()),
            Fault::NoSpace => Ok(false),
            Fault::FailedSync if kind == Kind::Sync => Err(failed()),
            Fault::FailedSync => Ok(false),
            Fault::Kill | Fault::PowerCut => {
                self.is_dead = true;
                Ok(true)
            }
        }
    }

    fn used(&self) -> usize {
        self.names.values().map(|node| self.nodes[*node].data.len()).sum()
    }

    fn change(&mut self, names: &[(&str, Option<usize>)]) {
        let change: Vec<_> = names.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect();
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn node(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn settle(&mut self, node: usize, is_kept: impl Fn(&mut Random) -> bool) {
        let (nodes, random) = (&mut self.nodes, &mut self.random);
        let node = &mut nodes[node];
        for sector in std::mem::take(&mut node.dirty) {
            if !is_kept(random) {
                continue;
            }
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(node.data.len());
            if node.durable.len() < to {
                node.durable.resize(to, 0);
            }
            node.durable[from..to].copy_from_slice(&node.data[from..to]);
        }
        if node.durable.len() < node.data.len() {
            node.durable.resize(node.data.len(), 0);
        }
    }

    fn cut_power(&mut self) {
        // How many sectors survive differs from cut to cut: none, some, most, or all.
        let share = [0, 50, 90, 100][self.random.below(4) as usize];
        for node in 0..self.nodes.len() {
            self.settle(node, |random| random.percent(share));
            let node = &mut self.nodes[node];
            node.data = node.durable.clone();
        }
        // Names change in order, but the last of them may not have.
        let kept = self.random.below(self.changes.len() as u64 + 1) as usize;
        for change in std::mem::take(&mut self.changes).iter().take(kept) {
            apply(&mut self.durable, change);
        }
        self.names = self.durable.clone();
        self.boot += 1;
        self.is_dead = false;
        self.plan = None;
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &[(String, Option<usize>)]) {
    for (name, node) in change {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

impl Files for Sim {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.meet(Kind::Read)?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StoreFile>> {
        let mut disk = self.disk();
        disk.meet(Kind::Read)?;
        let node = disk.node(name)?;
        Ok(Arc::new(SimFile { sim: self.clone(), node }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoreFile>> {
        let mut disk = self.disk();
        if disk.meet(Kind::Room)? {
            return Err(io::Error::other("the process has ended"));
        }
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.nodes.push(Node::default());
        let node = disk.nodes.len() - 1;
        disk.change(&[(name, Some(node))]);
        Ok(Arc::new(SimFile { sim: self.clone(), node }))
    }

    fn create_folder(&self, _name: &str) -> io::Result<()> {
        self.disk().meet(Kind::Room).map(|_| ())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.meet(Kind::Change)?;
        let node = disk.node(from)?;
        disk.change(&[(from, None), (to, Some(node))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.meet(Kind::Change)?;
        disk.node(name)?;
        disk.change(&[(name, None)]);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.meet(Kind::Sync)? {
            return Err(io::Error::other("the process has ended"));
        }
        disk.changes.clear();
        disk.durable = disk.names.clone();
        Ok(())
    }

    fn boot(&self) -> [u8; 16] {
        [self.disk().boot; 16]
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Sim,
    node: usize,
}

impl StoreFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let mut disk = self.sim.disk();
        disk.meet(Kind::Read)?;
        Ok(disk.nodes[self.node].data.len() as u64)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.sim.disk();
        if disk.meet(Kind::Room)? {
            return Err(io::Error::other("the process has ended"));
        }
        let more = (length as usize).saturating_sub(disk.nodes[self.node].data.len());
        if more > 0 && disk.room.is_some_and(|room| disk.used() + more > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = &mut disk.nodes[self.node];
        if more > 0 {
            node.data.resize(length as usize, 0);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.sim.disk();
        disk.meet(Kind::Read)?;
        let data = disk.nodes[self.node].data.get(offset as usize..).unwrap_or_default();
        let length = data.len().min(buffer.len());
        buffer[..length].copy_from_slice(&data[..length]);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.sim.disk();
        let is_cut = disk.meet(Kind::Write)?;
        let length = if is_cut { disk.random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        let node = &mut disk.nodes[self.node];
        let (from, to) = (offset as usize, offset as usize + length);
        if node.data.len() < to {
            node.data.resize(to, 0);
        }
        node.data[from..to].copy_from_slice(&bytes[..length]);
        if length > 0 {
            node.dirty.extend(from / SECTOR..=(to - 1) / SECTOR);
        }
        if is_cut { Err(io::Error::from_raw_os_error(5)) } else { Ok(length) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.sim.disk();
        match disk.meet(Kind::Sync) {
            Ok(false) => {
                disk.settle(self.node, |_| true);
                Ok(())
            }
            Ok(true) => Err(io::Error::other("the process has ended")),
            Err(error) => {
                // What a failed sync leaves behind counts as clean, whether it was kept or not.
                disk.settle(self.node, |random| random.percent(50));
                Err(error)
            }
        }
    }
}
