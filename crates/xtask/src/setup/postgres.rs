//! PostgreSQL of another major version beside the machine's own: Debian's packages of the suite that has it, with that suite's
//! C library and OpenSSL, their paths baked into the programs. So the folder cannot be moved.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::suite::{self, Suite};
use super::{packages, run_quietly};
use crate::lab::{Lab, machine_program, open_folder, remove};
use crate::progress::Step;

/// The newest that can be fetched.
pub(super) const NEWEST: u16 = 18;

/// Fetches it unless the machine or the lab has it already.
pub(super) fn ensure(lab: &Lab, major: u16) -> Result<()> {
    if lab.postgres_bin(Some(major)).is_ok() {
        return Ok(());
    }
    let suite = match major {
        17 => "trixie",
        NEWEST => "forky",
        _ => bail!("PostgreSQL {major} is not installed, and set-up knows how to fetch 17 and 18 only"),
    };
    if machine_program("patchelf").is_none() {
        packages::install(&[packages::PATCHELF])?;
    }
    let step = Step::new(format!("PostgreSQL {major}, from {suite}"));
    let prefix = lab.postgres_beside(major);
    remove(&prefix)?;
    open_folder(&prefix)?;
    let fetched = fetch(suite, major, &prefix);
    if fetched.is_err() {
        remove(&prefix)?;
    }
    fetched.with_context(|| format!("fetch PostgreSQL {major}"))?;
    step.done(&format!("in {}", prefix.display()));
    Ok(())
}

fn fetch(suite: &str, major: u16, prefix: &Path) -> Result<()> {
    let work = prefix.join("work");
    fs::create_dir_all(&work).context("make a work folder")?;
    let apt = Suite::open(suite, &work)?;
    let server = format!("postgresql-{major}");
    let needed: Vec<_> =
        apt.needed_by(&server)?.into_iter().filter(|package| *package == server || is_library(package)).collect();
    apt.download(&needed.iter().map(String::as_str).collect::<Vec<_>>())?;
    suite::unpack(&work, prefix)?;
    remove(&work)?;
    let (libraries, loader) = loader(prefix)?;
    let bin = prefix.join(format!("usr/lib/postgresql/{major}/bin"));
    for entry in fs::read_dir(&bin).context("list PostgreSQL's programs")?.flatten() {
        if !entry.path().is_symlink() && is_elf(&entry.path()) {
            // RPATH and not RUNPATH: it also serves libraries of libraries, and the server's modules.
            let mut patchelf = Command::new("patchelf");
            patchelf.arg("--set-interpreter").arg(&loader).args(["--force-rpath", "--set-rpath"]).arg(&libraries);
            run_quietly(patchelf.arg(entry.path()))?;
        }
    }
    // LLVM is left out, it is larger than all the rest; PostgreSQL runs without JIT then.
    let _ = fs::remove_file(prefix.join(format!("usr/lib/postgresql/{major}/lib/llvmjit.so")));
    run_quietly(Command::new("chmod").args(["-R", "a+rX"]).arg(prefix))?;
    run_quietly(Command::new(bin.join("postgres")).arg("--version"))?;
    Ok(())
}

fn is_library(package: &str) -> bool {
    let wanted = ["lib", "zlib1g", "postgresql-client-"].iter().any(|start| package.starts_with(start));
    let unused =
        ["libllvm", "libperl", "libc-bin", "libsemanage", "libdebconf"].iter().any(|start| package.starts_with(start));
    wanted && !unused && !package.starts_with("postgresql-client-common")
}

/// The suite's library folder and its dynamic loader.
fn loader(prefix: &Path) -> Result<(PathBuf, PathBuf)> {
    for folder in fs::read_dir(prefix.join("usr/lib")).context("list libraries")?.flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with("ld-linux") && folder.file_name().to_string_lossy().contains("-linux-gnu") {
                return Ok((folder.path(), file.path()));
            }
        }
    }
    bail!("the packages hold no dynamic loader")
}

fn is_elf(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o100 != 0)
        && fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"))
}
