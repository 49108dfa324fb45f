//! The code held to its own map: the import table of `src/lib.rs`, one list of refusal sentences, no test file left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            false => Vec::new(),
        })
        .collect();
    files.sort();
    files
}

/// The table in `src/lib.rs`: each module with those it may import, in the table's order.
fn import_table() -> Vec<(String, Vec<String>)> {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | ")).filter(|row| !row.starts_with("module"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let imports = cells[2].split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        (cells[0].to_owned(), imports.collect())
    })
    .collect()
}

/// The modules of this crate that a file's text names: `crate::x::…` and `use crate::{x, y::Z}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(top_level_names(group)),
            None => found.push(first_name(rest)),
        }
    }
    found
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn top_level_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(first_name(group[start..at].trim()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(first_name(group[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table: BTreeMap<String, Vec<String>> = import_table().into_iter().collect();
    let src = root().join("src");
    let mut strays = Vec::new();
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "main" || module == "lib" {
            continue;
        }
        let allowed = table.get(module).unwrap_or_else(|| panic!("`{module}` has no row in the table of src/lib.rs"));
        for used in imports(&fs::read_to_string(&file).unwrap()) {
            if used != module && table.contains_key(&used) && !allowed.contains(&used) {
                strays.push(format!("{}: `{module}` may not import `{used}`", inside.display()));
            }
        }
    }
    assert!(
        strays.is_empty(),
        "\n{}\nIf the import is right, change the table in src/lib.rs first.",
        strays.join("\n")
    );
}

#[test]
fn a_row_names_only_rows_above_it() {
    let table = import_table();
    assert!(table.len() > 10, "the table of src/lib.rs was not found");
    for (position, (module, imports)) in table.iter().enumerate() {
        for import in imports {
            let above = table[..position].iter().any(|(earlier, _)| earlier == import);
            assert!(above, "`{module}` names `{import}`, which does not stand above it");
        }
    }
}

#[test]
fn a_planted_stray_import_is_found() {
    assert_eq!(imports("use crate::{model::id, resolve::Resolver};"), ["model", "resolve"]);
    assert_eq!(imports("    let x = crate::store::Store::open();"), ["store"]);
    assert!(imports("// crate::store is not used here").is_empty());
}

#[test]
fn every_file_of_the_integration_tests_is_in_the_list() {
    let dir = root().join("tests/it");
    let list = fs::read_to_string(dir.join("main.rs")).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(
            module == "main" || module == "snapshots" || list.contains(&format!("mod {module};")),
            "{name} is left out"
        );
    }
}

#[test]
fn the_top_level_holds_what_it_may() {
    let allowed = ["Cargo.toml", "Cargo.lock", "proto", "src", "benches", "tests", "deploy", "README.md", "target"];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name} does not belong at the top level");
    }
}

#[test]
fn each_module_opens_with_what_it_is_for() {
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} opens without a line on what it is for", file.display());
    }
}

#[test]
fn the_tree_holds_one_tls_provider() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for foreign in ["aws-lc-rs", "openssl-sys", "native-tls"] {
        assert!(
            !lock.contains(&format!("name = \"{foreign}\"")),
            "{foreign} came into the tree; rustls with ring is enough"
        );
    }
}
