//! The description of the API: served, browsable, and in step with the handlers.

use super::Api;

#[tokio::test]
async fn the_description_is_served_as_it_is_recorded_and_as_a_page() {
    let api = Api::embedded().await;
    let served = api.send("GET", "/v1/openapi.json", &[], None).await.ok();
    assert_eq!(served["openapi"].as_str().unwrap().split('.').next(), Some("3"));
    insta::assert_json_snapshot!(served);
    let page = api.send("GET", "/v1/docs", &[], None).await;
    let page = page.body.as_str().unwrap();
    for path in served["paths"].as_object().unwrap().keys() {
        assert!(page.contains(path.as_str()), "{path} is not on the page");
    }
}
