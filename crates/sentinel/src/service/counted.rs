//! A service whose calls are counted.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    server::NamedService,
};

use crate::metrics::Metrics;

/// Passes calls on to a service, and counts how its answers begin.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    service: S,
    metrics: Metrics,
}

impl<S> Counted<S> {
    pub(crate) fn new(service: S, metrics: Metrics) -> Self {
        Self { service, metrics }
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (metrics, path) = (self.metrics.clone(), request.uri().path().to_owned());
        let answering = self.service.call(request);
        Box::pin(async move {
            let response = answering.await?;
            metrics.observe_request(&path, response.headers());
            Ok(response)
        })
    }
}
