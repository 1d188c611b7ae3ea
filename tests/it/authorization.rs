//! Who may make which call.

use kith::auth::rights::{RIGHTS, Right};

/// A row of the table in docs/security.md.
fn row(right: &Right) -> String {
    let Right { service, method, scope, acting, operator, also, view, users } = right;
    let scope = match (operator, acting) {
        (Some(operator), Some(acting)) => {
            format!("`{}`, or `{}` without `{acting}`", scope.name(), operator.name())
        }
        _ => format!("`{}`", scope.name()),
    };
    let users = match (users, acting, also) {
        (false, ..) => "no".to_owned(),
        (true, None, _) => "yes".to_owned(),
        (true, Some(acting), None) => format!("as `{acting}`"),
        (true, Some(acting), Some(also)) => format!("as `{acting}` and `{also}`"),
    };
    let view = if view.is_some() { "`user_view`" } else { "" };
    format!("| `{service}.{method}` | {scope} | {users} | {view} |")
}

#[test]
fn the_documented_table_is_the_one_that_is_enforced() {
    let rows: Vec<_> = RIGHTS.iter().map(row).collect();
    let header = "| RPC | A service needs | A user may call it | View |\n|---|---|---|---|";
    let table = format!("{header}\n{}\n", rows.join("\n"));
    let document = include_str!("../../docs/security.md");
    assert!(document.contains(&table), "docs/security.md needs this table:\n{table}");
}
