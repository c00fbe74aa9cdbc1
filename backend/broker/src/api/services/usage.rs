//! `UsageService`.

use fairmazon_model::{units::UnixMs, usage::Amounts};
use fairmazon_proto::v1::{
    ListUsageRequest, ListUsageResponse, Usage, usage_service_server::UsageService,
};
use fairmazon_store::UsageSum;
use tonic::{Request, Response, Status, async_trait};

use super::{Api, cut, optional_id, page};
use crate::{api::context::Context, metering::UsageRequest};

#[async_trait]
impl UsageService for Api {
    async fn list_usage(
        &self,
        request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        let (context, request) = Context::of(request)?;
        let work = async {
            let until = if request.until_ms == 0 { i64::MAX } else { request.until_ms };
            let wanted = UsageRequest {
                from: UnixMs(request.from_ms),
                until: UnixMs(until),
                subject: optional_id("subject_id", &request.subject_id)?,
                page: page(request.page)?,
            };
            let found = self.engine.usage(&context.caller, wanted).await?;
            let (usage, next_page_token) = cut(&found, |sum| sum.subject, message);
            Ok(ListUsageResponse { usage, next_page_token, revision: found.revision.0 })
        };
        context.answer(work).await
    }
}

fn message(sum: &UsageSum) -> Usage {
    let Amounts { vcpu_ms, mib_ms, gib_ms, egress_bytes } = sum.amounts;
    Usage {
        subject_id: sum.subject.to_string(),
        account_id: sum.account.to_string(),
        class: sum.class.clone(),
        from_ms: sum.from.0,
        until_ms: sum.until.0,
        windows: sum.windows,
        used_ms: sum.used_ms,
        unseen_ms: sum.unseen_ms,
        vcpu_ms,
        mib_ms,
        gib_ms,
        egress_bytes,
    }
}
