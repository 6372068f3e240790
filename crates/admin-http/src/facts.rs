//! Metrics that are not counted but looked up, at the moment when they are asked for.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, NoLabelSet},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Writes down what a collector finds; the registry's prefix goes before each name.
pub struct Facts<'a>(DescriptorEncoder<'a>);

impl<'a> Facts<'a> {
    /// Facts that go where a [`Collector`](prometheus_client::collector::Collector) is told to write.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// What goes up and down. The name ends in the unit.
    ///
    /// # Errors
    /// As the writer's.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge for each value of a label.
    ///
    /// # Errors
    /// As the writer's.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue + Copy>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// What only goes up, since the process started. The name ends in the unit; `_total` is put behind it.
    ///
    /// # Errors
    /// As the writer's.
    pub fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }
}
