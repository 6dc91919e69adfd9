//! Ranks in separate network namespaces: what two machines are to MPI, on one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{output, program};

/// The names of the namespaces, which are also their host names, and of the ends of the cable between them.
const NAMES: [&str; 2] = ["hyperinf-1", "hyperinf-2"];
const ENDS: [&str; 2] = ["hi1", "hi2"];
const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const NETWORK: &str = "10.77.0.0/24";

/// Two namespaces with a cable between them, and nothing else; removed when this value is dropped.
pub struct Namespaces {
    /// Does what `ssh` would: runs a command at an address.
    enter: PathBuf,
}

impl Namespaces {
    /// `None` where the machine does not allow them.
    pub fn make(folder: &Path) -> Result<Option<Self>, String> {
        let enter = folder.join("enter");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = -x ] && shift\naddress=$1\nshift\nname=hyperinf-${{address##*.}}\n\
             exec ip netns exec \"$name\" unshare --uts sh -c \"hostname $name; cd '{}'; exec $*\"\n",
            folder.display()
        );
        fs::write(&enter, script).map_err(|e| format!("cannot write {}: {e}", enter.display()))?;
        let _ = output(program("chmod").arg("+x").arg(&enter));
        let made = Self { enter };
        let ip = |args: &[&str]| output(program("ip").args(args)).map(drop);
        let laid = || {
            NAMES.iter().try_for_each(|name| ip(&["netns", "add", name]))?;
            ip(&[
                "link", "add", ENDS[0], "netns", NAMES[0], "type", "veth", "peer", "name", ENDS[1], "netns", NAMES[1],
            ])?;
            for ((name, end), address) in NAMES.iter().zip(ENDS).zip(ADDRESSES) {
                ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", end])?;
                ip(&["-n", name, "link", "set", end, "up"])?;
                ip(&["-n", name, "link", "set", "lo", "up"])?;
            }
            Ok::<_, String>(())
        };
        match laid() {
            Ok(()) => Ok(Some(made)),
            Err(reason) => {
                println!("no ranks in separate network namespaces here: {reason}");
                Ok(None)
            }
        }
    }

    /// The words that start so many ranks, of which half are in each namespace.
    pub fn launcher(&self, mpi: &str, ranks: usize) -> Vec<String> {
        let (enter, count) = (self.enter.display().to_string(), ranks.to_string());
        let hosts = ADDRESSES.map(|address| format!("{address}:{}", ranks.div_ceil(2))).join(",");
        let words: Vec<&str> = match mpi {
            "mpich" => vec![
                "mpiexec.mpich",
                "-launcher",
                "ssh",
                "-launcher-exec",
                &enter,
                "-iface",
                ENDS[0],
                "-hosts",
                &hosts,
                "-n",
                &count,
            ],
            _ => vec![
                "mpiexec.openmpi",
                "--allow-run-as-root",
                "--oversubscribe",
                "--mca",
                "plm_rsh_agent",
                &enter,
                "--mca",
                "oob_tcp_if_include",
                NETWORK,
                "--mca",
                "btl",
                "self,tcp",
                "--mca",
                "btl_tcp_if_include",
                NETWORK,
                "--host",
                &hosts,
                "-n",
                &count,
            ],
        };
        // The launcher itself is in the first one.
        let within =
            ["ip", "netns", "exec", NAMES[0], "unshare", "--uts", "sh", "-c", "hostname \"$0\"; exec \"$@\"", NAMES[0]];
        within.iter().chain(&words).map(|&word| word.to_owned()).collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in NAMES {
            let _ = output(program("ip").args(["netns", "delete", name]));
        }
    }
}
