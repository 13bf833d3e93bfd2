//! Renders views on a device: the originals' bytes that a crop needs are copied, then cropped, flipped, resized and scaled there.

use candle_core::Tensor;
use tessera_kernels::device::launch::Float;
use tessera_kernels::device::launcher::{Device, Memory, Packing};
use tessera_kernels::ops::patchify::Order;
use tessera_kernels::ops::patchify::launch::{Images, from_bytes};
use tessera_kernels::ops::resample::launch::{Crop, Tables, resample};

use super::batch::View;
use super::render;
use super::sample::{InputSpec, Sample};
use crate::{Error, Result};

fn crop(sample: &Sample, side: usize) -> Result<Crop> {
    render::check(sample, side)?;
    let crop = sample.crop;
    Ok(Crop {
        size: [sample.image.width, sample.image.height],
        from: [crop.left, crop.top],
        length: [crop.width, crop.height],
        flip: sample.flip,
    })
}

impl View<'_> {
    /// Renders the images as squares of `side` pixels: the bytes that [`render`](Self::render) scales.
    ///
    /// # Shapes
    /// Returns `[batch, side, side, 3]`, u8.
    ///
    /// # Errors
    /// As [`render`](Self::render), and if the device fails.
    pub fn render_on(&self, device: &Device, side: usize) -> Result<Memory> {
        match self.rendered {
            Some(rendered) => rendered.on_device(side, || self.resampled(device, side)),
            None => self.resampled(device, side),
        }
    }

    fn resampled(&self, device: &Device, side: usize) -> Result<Memory> {
        let boxes = self.samples().iter().map(|sample| crop(sample, side));
        let boxes: Vec<Crop> = boxes.collect::<Result<_>>()?;
        let tables = Tables::of(&boxes, side);
        let launches = resample(&tables, side).map_err(launch)?;
        let read = self.samples().iter().zip(&tables.regions);
        let pixels = read.flat_map(|(sample, region)| region.pieces(&sample.image.rgb));
        let lists = Packing::default().with(&tables.row_at);
        let lists = lists.with(&tables.weights).with(&tables.image_of);
        let lists = lists.with(&tables.across).with(&tables.down);
        let (_, lists) = device.put_packed(&lists.with_pieces(pixels))?;
        let names = ["row_at", "weights", "image_of", "across", "down", "pixels"];
        let given: Vec<_> = names.into_iter().zip(&lists).collect();
        let [out] = device.run_all(&launches, &given, ["out"])?;
        Ok(out)
    }

    /// Computes [`render`](Self::render) on `device`, bitwise equal, and returns a tensor for the device's models.
    ///
    /// # Shapes
    /// As [`render`](Self::render).
    ///
    /// # Errors
    /// As [`render_on`](Self::render_on).
    pub fn tensor_on(&self, device: &Device, input: &InputSpec) -> Result<Tensor> {
        let side = input.side;
        // With one patch per image, the patch consists of the image's planes.
        let planes = self.patches_on(device, input, side, Order::ChannelFirst)?;
        Ok(device.tensor(planes, &[self.batch(), 3, side, side])?)
    }

    /// Returns the scaled patches of the images: [`render`](Self::render), bitwise equal, split into patches.
    ///
    /// # Shapes
    /// Returns `[batch * (side / patch)^2, 3 * patch * patch]`, f32, a patch's values in `order`.
    ///
    /// # Errors
    /// As [`render_on`](Self::render_on), and if the patch's side does not divide the image's.
    pub fn patches_on(
        &self,
        device: &Device,
        input: &InputSpec,
        patch: usize,
        order: Order,
    ) -> Result<Memory> {
        let (batch, side) = (self.batch(), input.side);
        let bytes = self.render_on(device, side)?;
        let images = Images {
            batch,
            side,
            patch,
            order,
        };
        let rows = batch * (side / patch.max(1)).pow(2);
        let keep: Vec<u32> = (0..rows as u32).collect();
        let lists = Packing::of(&[&input.mean[..], &input.std]).with(&keep);
        let (_, lists) = device.put_packed(&lists)?;
        let names = ["mean", "std", "keep"];
        let mut given: Vec<_> = names.into_iter().zip(&lists).collect();
        given.push(("images", &bytes));
        let launch = from_bytes(Float::F32, images, rows).map_err(launch)?;
        let [out] = device.run_all(&[launch], &given, ["out"])?;
        Ok(out)
    }
}

fn launch(error: tessera_kernels::device::launch::LaunchError) -> Error {
    Error::Device(error.into())
}
