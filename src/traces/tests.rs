use super::*;

#[test]
fn the_methods_of_the_api_are_traced_and_no_others() {
    let method = &METHODS["/kith.v1.ConnectionService/ListConnections"];
    assert_eq!(method.name, "kith.v1.ConnectionService/ListConnections");
    assert_eq!((&*method.service, &*method.method), ("kith.v1.ConnectionService", "ListConnections"));
    assert!(METHODS.len() > 20 && METHODS.keys().all(|path| path.starts_with("/kith.v1.")));
}

#[test]
fn only_faults_of_the_server_are_errors_of_its_span() {
    let faults: Vec<_> = (0..=16).map(Code::from_i32).filter(|code| is_fault(*code)).map(i32::from).collect();
    assert_eq!(faults, [2, 4, 12, 13, 14, 15]);
}
