//! A server of one or many processes, and what they take of the machine.

use nix::time::ClockId;
use nix::unistd::Pid;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

/// How long a clock tick is in which the time of processes that ended is told: on Linux the same on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Fields of `/proc/<pid>/stat` after the name: the process group, and user and system time of children that ended.
const GROUP: usize = 2;
const ENDED_CHILDREN: std::ops::Range<usize> = 13..15;

/// The processes of a server, which end with this value.
#[derive(Debug)]
pub(crate) struct Processes {
    first: Child,
}

impl Drop for Processes {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = Command::new("kill").arg("-9").arg(pid.to_string()).status();
        }
        let _ = self.first.wait();
    }
}

impl Processes {
    /// Starts the first one, in a process group of its own.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        let first = command.process_group(0).spawn()?;
        Ok(Self { first })
    }

    /// Every process of the group.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let group = self.first.id().to_string();
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| stat(*pid).is_some_and(|fields| fields[GROUP] == group))
            .collect()
    }

    /// CPU time of all processes since they began, with that of children that ended.
    ///
    /// Processes tell it in nanoseconds, all their threads included; of children that ended, ticks are known.
    pub(crate) fn cpu(&self) -> Duration {
        let pids = self.pids();
        pids.iter().map(|pid| own_cpu(*pid) + ended_cpu(*pid)).sum()
    }

    /// Memory of all processes, each shared page counted once in all.
    pub(crate) fn memory_mib(&self) -> f64 {
        let kib: f64 = self
            .pids()
            .into_iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
            .filter_map(|text| {
                let line = text.lines().find(|line| line.starts_with("Pss:"))?;
                line.split_whitespace().nth(1)?.parse::<f64>().ok()
            })
            .sum();
        kib / 1024.0
    }
}

fn own_cpu(pid: i32) -> Duration {
    ClockId::pid_cpu_clock_id(Pid::from_raw(pid))
        .and_then(ClockId::now)
        .map(Duration::from)
        .unwrap_or_default()
}

fn ended_cpu(pid: i32) -> Duration {
    let ticks: u32 = stat(pid)
        .iter()
        .flat_map(|fields| &fields[ENDED_CHILDREN])
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    TICK * ticks
}

/// The fields of `/proc/<pid>/stat` after the name: state, parent, group…
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<String> = fields.split_whitespace().map(str::to_owned).collect();
    (fields.len() > ENDED_CHILDREN.end).then_some(fields)
}
