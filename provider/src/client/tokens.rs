//! Calls about tokens.

use fairmazon_proto::v1;

use super::{Channel, Client, ClientError};

impl Client {
    /// Makes a token that ends by itself after `lifetime_seconds`. The secret is in the answer.
    ///
    /// # Errors
    /// When the caller has not the right to it.
    pub async fn create_token(
        &self,
        name: String,
        role: v1::Role,
        lifetime_seconds: u64,
    ) -> Result<(v1::Token, String), ClientError> {
        let request = v1::CreateTokenRequest {
            name,
            role: role.into(),
            lifetime_seconds,
            idempotency_key: self.keys.for_change(),
            account_id: String::new(),
        };
        let answer = self
            .call(request, |request| {
                let mut service = self.tokens_service();
                async move { service.create_token(request).await }
            })
            .await?;
        tfplugin::keep_secret(&answer.secret);
        let token =
            answer.token.ok_or_else(|| ClientError::Nonsense("the token is missing".to_owned()))?;
        Ok((token, answer.secret))
    }

    /// Ends a token at once.
    ///
    /// # Errors
    /// When there is none.
    pub async fn revoke_token(&self, id: &str) -> Result<(), ClientError> {
        let request =
            v1::RevokeTokenRequest { id: id.to_owned(), idempotency_key: self.keys.for_change() };
        self.call(request, |request| {
            let mut service = self.tokens_service();
            async move { service.revoke_token(request).await }
        })
        .await?;
        Ok(())
    }

    fn tokens_service(&self) -> v1::tokens_service_client::TokensServiceClient<Channel> {
        v1::tokens_service_client::TokensServiceClient::new(self.channel.clone())
    }
}
