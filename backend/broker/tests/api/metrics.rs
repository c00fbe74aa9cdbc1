//! The metrics page.

use std::time::Duration;

use fairmazon_model::access::Role;
use fairmazon_proto::v1::{GetCatalogueRequest, catalogue_service_client::CatalogueServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::Broker;

async fn get(broker: &Broker, path: &str) -> String {
    let mut stream = TcpStream::connect(broker.server().metrics_address().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn calls_and_state_are_told() {
    let here = ([127, 0, 0, 1], 0).into();
    let broker = Broker::start_with(|config| config.metrics = Some(here)).await;
    let mut catalogue = CatalogueServiceClient::new(broker.as_role(Role::Customer).await);
    catalogue.get_catalogue(GetCatalogueRequest {}).await.unwrap();
    let page = get(&broker, "/metrics").await;
    for part in [
        "HTTP/1.1 200",
        r#"fairmazon_requests_total{method="/fairmazon.v1.CatalogueService/GetCatalogue",code="ok"} 1"#,
        r#"fairmazon_state{what="hosts"} 1"#,
        r#"fairmazon_state{what="accounts"} 4"#,
        "fairmazon_connections 1",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(get(&broker, "/").await.starts_with("HTTP/1.1 404"));
    broker.stop().await;
}

#[tokio::test]
async fn times_and_handshakes_are_told() {
    let here = ([127, 0, 0, 1], 0).into();
    let broker = Broker::start_with(|config| {
        config.metrics = Some(here);
        config.handshake_time = Duration::from_secs(3);
    })
    .await;
    let mut catalogue = CatalogueServiceClient::new(broker.as_role(Role::Customer).await);
    for _ in 0..2 {
        catalogue.get_catalogue(GetCatalogueRequest {}).await.unwrap();
    }
    // One speaks no TLS, and one says nothing.
    let mut rude = TcpStream::connect(broker.server().address()).await.unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _silent = TcpStream::connect(broker.server().address()).await.unwrap();
    let method = "/fairmazon.v1.CatalogueService/GetCatalogue";
    for part in [
        format!("fairmazon_request_seconds_count{{method=\"{method}\"}} 2"),
        format!("fairmazon_request_seconds_bucket{{le=\"+Inf\",method=\"{method}\"}} 2"),
        r#"fairmazon_tls_handshakes_total{what="done"} 1"#.into(),
        r#"fairmazon_tls_handshakes_total{what="failed"} 1"#.into(),
        r#"fairmazon_tls_handshakes_total{what="too slow"} 1"#.into(),
    ] {
        // They are counted a moment after they have ended.
        while !get(&broker, "/metrics").await.contains(&part) {
            tokio::task::yield_now().await;
        }
    }
    let page = get(&broker, "/metrics").await;
    let sum = format!("fairmazon_request_seconds_sum{{method=\"{method}\"}} ");
    let sum = page.lines().find_map(|line| line.strip_prefix(&sum)).unwrap();
    assert!(sum.parse::<f64>().unwrap() > 0.0, "{sum}");
    broker.stop().await;
}
