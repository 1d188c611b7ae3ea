//! `kith healthcheck`: queries the health of a server, for container images without another probe.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Failure, connect};
use crate::config::{Address, Healthcheck, Sources};

pub(super) async fn run(args: Healthcheck, sources: &Sources) -> Result<(), Failure> {
    let address = &args.address;
    // `kith serve` has the same variable and key for what it listens on.
    let setting = sources.name("listen");
    let status = tokio::time::timeout(args.timeout, query(address, &setting, args.service.clone()));
    match status.await.map_err(|_| format!("{setting} {address}: no response within {:?}", args.timeout))?? {
        ServingStatus::Serving => Ok(()),
        status @ (ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown) => {
            Err(format!("{setting} {address}: service {:?} is {}", args.service, status.as_str_name()).into())
        }
    }
}

async fn query(address: &Address, setting: &str, service: String) -> Result<ServingStatus, Failure> {
    let channel = connect::channel(address, setting).await?;
    let response = HealthClient::new(channel).check(HealthCheckRequest { service: service.clone() }).await;
    let response = response.map_err(|status| {
        format!("{setting} {address}: service {service:?}: {:?}: {}", status.code(), status.message())
    })?;
    Ok(response.into_inner().status())
}
