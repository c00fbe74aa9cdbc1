//! The metrics page.

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
