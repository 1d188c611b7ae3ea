//! The dependencies are those that `docs/dependencies.md` argues for.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use toml::de::DeTable;

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("a file of the repository")
}

/// The part of the page between this heading and the next.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    rest.split("\n## ").next().expect("a part")
}

/// The crates in the first column of a table, each with what the other columns say.
fn rows(section: &str) -> Vec<(&str, Vec<&str>)> {
    section
        .lines()
        .filter_map(|line| {
            let (name, others) = line.strip_prefix("| `")?.split_once("` |")?;
            Some((name, others.trim_end_matches('|').split(" | ").map(str::trim).collect()))
        })
        .collect()
}

#[test]
fn each_direct_dependency_has_a_row_with_reasons() {
    let manifest = read("Cargo.toml");
    let manifest = DeTable::parse(&manifest).expect("TOML").into_inner();
    let page = read("docs/dependencies.md");
    for (table, heading) in [
        ("dependencies", "Of the binary"),
        ("build-dependencies", "Of the build"),
        ("dev-dependencies", "Of the tests"),
    ] {
        let declared = manifest[table].get_ref().as_table().expect("a table").keys();
        let mut declared: BTreeSet<&str> = declared.map(|name| name.get_ref().as_ref()).collect();
        // Those of one operating system only.
        for target in manifest["target"].get_ref().as_table().expect("a table").values() {
            let of_target = target.get_ref().as_table().expect("a table").get(table);
            let names = of_target.into_iter().flat_map(|names| names.get_ref().as_table().expect("a table").keys());
            declared.extend(names.map(|name| name.get_ref().as_ref()));
        }
        let rows = rows(section(&page, heading));
        let named: BTreeSet<&str> = rows.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, declared, "docs/dependencies.md, {heading:?}: the left have a row, the right are declared");
        assert!(rows.is_sorted_by(|(one, _), (other, _)| one < other), "{heading:?} is not in alphabetical order");
        for (name, reasons) in rows {
            assert!(reasons.len() == 2 && reasons.iter().all(|reason| !reason.is_empty()), "{name}: {reasons:?}");
        }
    }
}

#[test]
fn the_number_of_crates_is_the_one_noted() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package=kith", "--edges=normal", "--prefix=none", "--no-dedupe", "--format={p}"])
        .arg("--target=x86_64-unknown-linux-gnu")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("UTF-8");
    // Name and version; the rest says where it is or what it is.
    let crates: BTreeSet<Vec<&str>> = tree.lines().map(|line| line.split(' ').take(2).collect()).collect();
    let others = crates.iter().filter(|name| name.first() != Some(&"kith")).count();
    let page = read("docs/dependencies.md");
    let noted = format!("The binary for Linux has {others} crates of others.");
    assert!(page.contains(&noted), "docs/dependencies.md must say: {noted}");
}
