//! A network of the test's own: each program on a host of its own, with links between them that can be hurt. A host is a
//! network namespace; who is not root makes it in a user namespace. Nothing of the machine's own network is touched.
//!
//! ```text
//!  agents ── link 0 ── gateway ── link 1 ── server
//! ```

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;

use crate::group::Group;
use crate::{hostile, program};

/// Where programs listen.
const PORT: u16 = 5723;
/// The table of a link's faults, at both of its hosts.
const TABLE: &str = "fault";

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The cable is out: both hosts know it.
    Cut,
    /// Every packet vanishes.
    BlackHole,
    /// Every packet towards the server vanishes.
    Up,
    /// Every packet from the server vanishes.
    Down,
}

/// Three hosts in a line, with a group on them.
#[derive(Debug)]
pub struct Network {
    hosts: [Host; 3],
}

/// A host, for as long as a process holds it.
#[derive(Debug)]
struct Host {
    holder: Child,
}

/// How to enter a host.
#[derive(Clone, Copy, Debug)]
pub struct Door(u32);

impl Door {
    /// A program that runs there, in the process that is started.
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.0.to_string(), "--net"]);
        if !geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program.as_ref());
        command
    }

    #[track_caller]
    fn done(self, program: &str, arguments: &[&str]) {
        let mut command = self.command(program);
        program::succeeds(&command.args(arguments).output().expect("util-linux is here"));
    }
}

impl Host {
    /// A new one; beside another, it belongs to the same user namespace.
    fn new(beside: Option<Door>) -> Self {
        let mut command = match beside {
            Some(other) => other.command("unshare"),
            None => Command::new("unshare"),
        };
        if beside.is_none() && !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        // It ends with the test, whatever ends that.
        command.args(["--net", "sh", "-c", "echo here; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("util-linux is here");
        let mut said = String::new();
        let _ = BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut said);
        assert_eq!(said, "here\n", "no network namespace can be made");
        let host = Self { holder };
        host.door().done("/usr/sbin/ip", &["link", "set", "lo", "up"]);
        host
    }

    fn door(&self) -> Door {
        Door(self.holder.id())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The end of a link: at the lower host, or at the upper.
const fn end(link: usize, upper: bool) -> Ipv4Addr {
    // For documentation (RFC 5737), so nobody's.
    Ipv4Addr::new(198, 51, 100, (link * 4 + if upper { 2 } else { 1 }) as u8)
}

impl Network {
    /// Moves a group of one gateway, which does not run, onto hosts of its own.
    ///
    /// # Panics
    /// There can be no namespaces, or the group is another.
    pub fn of(group: &mut Group, agents: usize) -> Self {
        let first = Host::new(None);
        let others = [Host::new(Some(first.door())), Host::new(Some(first.door()))];
        let [second, third] = others;
        let hosts = [first, second, third];
        for (link, pair) in hosts.windows(2).enumerate() {
            let (below, above) = (pair[0].door(), pair[1].door());
            let other = above.0.to_string();
            below.done(
                "/usr/sbin/ip",
                &["link", "add", "uplink", "type", "veth", "peer", "name", "downlink", "netns", &other],
            );
            for (door, device, upper) in [(below, "uplink", false), (above, "downlink", true)] {
                let address = format!("{}/30", end(link, upper));
                door.done("/usr/sbin/ip", &["address", "add", &address, "dev", device]);
                door.done("/usr/sbin/ip", &["link", "set", device, "up"]);
            }
        }
        let at = |link| SocketAddr::from((end(link, true), PORT));
        let doors = [0, 1, 2].map(|host: usize| hosts[host].door());
        for agent in 0..agents {
            let agent = group.agent(agent);
            agent.enter(doors[0]);
            agent.change_membership(|file| _ = file.insert("parents".into(), hostile::parents(&[("gw1.test", at(0))])));
        }
        let gateway = group.gateway(0);
        gateway.enter(doors[1]);
        gateway.set("listen", at(0).to_string());
        gateway.change_membership(|file| _ = file.insert("parents".into(), hostile::parents(&[("srv1.test", at(1))])));
        group.server().enter(doors[2]);
        group.server().set("listen", at(1).to_string());
        Self { hosts }
    }

    /// The two hosts of a link.
    fn ends(&self, link: usize) -> (Door, Door) {
        (self.hosts[link].door(), self.hosts[link + 1].door())
    }

    /// Hurts a link that is well.
    ///
    /// # Panics
    /// The kernel cannot.
    #[track_caller]
    pub fn hurt(&self, link: usize, fault: Fault) {
        let (below, above) = self.ends(link);
        // Where packets come in, so that who sends them learns nothing.
        let drop_what_comes = |door: Door, device: &str| {
            let rules = format!(
                "table inet {TABLE} {{ chain comes {{ type filter hook input priority 0; iifname \"{device}\" drop; }}; }}"
            );
            door.done("/usr/sbin/nft", &[&rules]);
        };
        match fault {
            Fault::Cut => below.done("/usr/sbin/ip", &["link", "set", "uplink", "down"]),
            Fault::BlackHole => {
                drop_what_comes(below, "uplink");
                drop_what_comes(above, "downlink");
            }
            Fault::Up => drop_what_comes(above, "downlink"),
            Fault::Down => drop_what_comes(below, "uplink"),
        }
    }

    /// Makes a link well again.
    ///
    /// # Panics
    /// The kernel cannot.
    #[track_caller]
    pub fn heal(&self, link: usize) {
        let (below, above) = self.ends(link);
        below.done("/usr/sbin/ip", &["link", "set", "uplink", "up"]);
        for door in [below, above] {
            door.done("/usr/sbin/nft", &["flush", "ruleset"]);
        }
    }
}
