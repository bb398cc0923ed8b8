/* GroupNorm (Wu & He, 2018) and ReLU in one, of channels-last activations: x (batch, n_frames, n_bins, channels).

   `mask` (batch, n_frames) bytes, or NULL: frames that count; the others leave the statistics alone and become 0.
   Written for activations of which one item fits the second-level cache: each pass after the first reads from there. */

#include "kernels.h"

#define MAX_CHANNELS 1024

/* Channels that are worked on together, their sums in registers: a fixed number, for which loops are unrolled. */
#define LANES 32

typedef struct {
    const void *x, *slopes;
    void *out;
    const uint8_t *mask;
    const float *weight, *bias;
    float *mean, *rstd;                        /* (batch, groups) */
    float *weight_gradient, *bias_gradient;    /* (batch, channels) */
    int64_t n_frames, n_bins, channels, groups;
    float eps;
} Norm;

INLINE int counts(const Norm *norm, int64_t item, int64_t frame)
{
    return !norm->mask || norm->mask[item * norm->n_frames + frame];
}

/* Adds to `total` the sums over a frame's pixels of x, or of (x - centre)^2, of `width` channels. */
INLINE void add_block(const void *x, int64_t n_pixels, int64_t channels, int64_t width, const float *centre,
                      double *total, int bf16)
{
    float sum[LANES] = {0};
    for (int64_t pixel = 0; pixel < n_pixels; pixel++)
        for (int64_t c = 0; c < width; c++) {
            float value = get(x, pixel * channels + c, bf16);
            float centred = centre ? value - centre[c] : 0.0f;
            sum[c] += centre ? centred * centred : value;
        }
    for (int64_t c = 0; c < width; c++)
        total[c] += sum[c];
}

/* Of all channels: float32 within a frame, float64 over frames. */
INLINE void add_up(const Norm *norm, int64_t item, const void *x, const float *centre, double *total, int bf16)
{
    int64_t channels = norm->channels, in_frame = norm->n_bins * channels;
    for (int64_t frame = 0; frame < norm->n_frames; frame++)
        for (int64_t c = 0; c < channels && counts(norm, item, frame); c += LANES) {
            const void *from = shifted(x, frame * in_frame + c, bf16);
            const float *centre_of = centre ? centre + c : NULL;
            if (channels - c >= LANES)
                add_block(from, norm->n_bins, channels, LANES, centre_of, total + c, bf16);
            else
                add_block(from, norm->n_bins, channels, channels - c, centre_of, total + c, bf16);
        }
}

/* Channels' totals to the mean of each channel's group. */
INLINE void mean_of_groups(const double *total, int64_t channels, int64_t groups, int64_t n_pixels, float *mean)
{
    int64_t size = channels / groups;
    for (int64_t group = 0; group < groups; group++) {
        double sum = 0;
        for (int64_t c = group * size; c < (group + 1) * size; c++)
            sum += total[c];
        for (int64_t c = group * size; c < (group + 1) * size; c++)
            mean[c] = (float)(sum / (double)(n_pixels * size));
    }
}

INLINE void write_block(const void *x, void *out, int64_t n_pixels, int64_t channels, int64_t width,
                        const float *scale, const float *shift, int bf16)
{
    for (int64_t pixel = 0; pixel < n_pixels; pixel++)
        for (int64_t c = 0; c < width; c++) {
            float value = get(x, pixel * channels + c, bf16) * scale[c] + shift[c];
            put(out, pixel * channels + c, value < 0.0f ? 0.0f : value, bf16);
        }
}

INLINE void item_forward(const Norm *norm, int64_t item, int bf16)
{
    int64_t channels = norm->channels, groups = norm->groups, in_frame = norm->n_bins * channels, n_pixels = 0;
    const void *x = shifted(norm->x, item * norm->n_frames * in_frame, bf16);
    void *out = (void *)shifted(norm->out, item * norm->n_frames * in_frame, bf16);
    double total[MAX_CHANNELS] = {0};
    float mean[MAX_CHANNELS], variance[MAX_CHANNELS], scale[MAX_CHANNELS], shift[MAX_CHANNELS];

    for (int64_t frame = 0; frame < norm->n_frames; frame++)
        n_pixels += counts(norm, item, frame) ? norm->n_bins : 0;
    add_up(norm, item, x, NULL, total, bf16);
    mean_of_groups(total, channels, groups, n_pixels, mean);
    memset(total, 0, sizeof total);
    add_up(norm, item, x, mean, total, bf16);
    mean_of_groups(total, channels, groups, n_pixels, variance);

    for (int64_t c = 0; c < channels; c++) {
        float rstd = 1.0f / __builtin_sqrtf(variance[c] + norm->eps);
        scale[c] = rstd * norm->weight[c];
        shift[c] = norm->bias[c] - mean[c] * scale[c];
        norm->mean[item * groups + c / (channels / groups)] = mean[c];
        norm->rstd[item * groups + c / (channels / groups)] = rstd;
    }
    for (int64_t frame = 0; frame < norm->n_frames; frame++)
        if (!counts(norm, item, frame))
            memset((void *)shifted(out, frame * in_frame, bf16), 0, in_frame * (bf16 ? 2 : 4));
        else
            for (int64_t c = 0; c < channels; c += LANES) {
                const void *from = shifted(x, frame * in_frame + c, bf16);
                void *to = (void *)shifted(out, frame * in_frame + c, bf16);
                if (channels - c >= LANES)
                    write_block(from, to, norm->n_bins, channels, LANES, scale + c, shift + c, bf16);
                else
                    write_block(from, to, norm->n_bins, channels, channels - c, scale + c, shift + c, bf16);
            }
}

/* Adds the sums over a frame's pixels of the slopes that the ReLU lets through, and of these times x - mean. */
INLINE void add_slopes(const void *x, const void *slopes, int64_t n_pixels, int64_t channels, int64_t width,
                       const float *mean, const float *scale, const float *shift, double *slope_sum,
                       double *along_sum, int bf16)
{
    float slope_part[LANES] = {0}, along_part[LANES] = {0};
    for (int64_t pixel = 0; pixel < n_pixels; pixel++)
        for (int64_t c = 0; c < width; c++) {
            float value = get(x, pixel * channels + c, bf16), slope = get(slopes, pixel * channels + c, bf16);
            slope = value * scale[c] + shift[c] > 0.0f ? slope : 0.0f;
            slope_part[c] += slope;
            along_part[c] += slope * (value - mean[c]);
        }
    for (int64_t c = 0; c < width; c++) {
        slope_sum[c] += slope_part[c];
        along_sum[c] += along_part[c];
    }
}

INLINE void write_gradient(const void *x, const void *slopes, void *out, int64_t n_pixels, int64_t channels,
                           int64_t width, const float *scale, const float *shift, const float *tilt,
                           const float *constant, int bf16)
{
    for (int64_t pixel = 0; pixel < n_pixels; pixel++)
        for (int64_t c = 0; c < width; c++) {
            float value = get(x, pixel * channels + c, bf16), slope = get(slopes, pixel * channels + c, bf16);
            slope = value * scale[c] + shift[c] > 0.0f ? slope : 0.0f;
            put(out, pixel * channels + c, slope * scale[c] + value * tilt[c] + constant[c], bf16);
        }
}

/* Gradients of x, and this item's part of those of weight and bias. Which values the ReLU let through is found again
   from x. Without a mask only. */
INLINE void item_backward(const Norm *norm, int64_t item, int bf16)
{
    int64_t channels = norm->channels, groups = norm->groups, size = channels / groups, in_frame = norm->n_bins * channels;
    const void *x = shifted(norm->x, item * norm->n_frames * in_frame, bf16);
    const void *slopes = shifted(norm->slopes, item * norm->n_frames * in_frame, bf16);
    void *out = (void *)shifted(norm->out, item * norm->n_frames * in_frame, bf16);
    float mean[MAX_CHANNELS], scale[MAX_CHANNELS], shift[MAX_CHANNELS], tilt[MAX_CHANNELS], constant[MAX_CHANNELS];
    double slope_sum[MAX_CHANNELS] = {0}, along_sum[MAX_CHANNELS] = {0};

    for (int64_t c = 0; c < channels; c++) {
        mean[c] = norm->mean[item * groups + c / size];
        scale[c] = norm->rstd[item * groups + c / size] * norm->weight[c];
        shift[c] = norm->bias[c] - mean[c] * scale[c];
    }
    for (int64_t frame = 0; frame < norm->n_frames; frame++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const void *from = shifted(x, frame * in_frame + c, bf16);
            const void *slope = shifted(slopes, frame * in_frame + c, bf16);
            if (channels - c >= LANES)
                add_slopes(from, slope, norm->n_bins, channels, LANES, mean + c, scale + c, shift + c, slope_sum + c,
                           along_sum + c, bf16);
            else
                add_slopes(from, slope, norm->n_bins, channels, channels - c, mean + c, scale + c, shift + c,
                           slope_sum + c, along_sum + c, bf16);
        }
    for (int64_t group = 0; group < groups; group++) {
        double rstd = norm->rstd[item * groups + group], slope_mean = 0, along_mean = 0;
        for (int64_t c = group * size; c < (group + 1) * size; c++) {
            along_sum[c] *= rstd; /* with the normalised input */
            slope_mean += slope_sum[c] * norm->weight[c];
            along_mean += along_sum[c] * norm->weight[c];
        }
        slope_mean /= (double)(size * norm->n_frames * norm->n_bins);
        along_mean /= (double)(size * norm->n_frames * norm->n_bins);
        for (int64_t c = group * size; c < (group + 1) * size; c++) {
            tilt[c] = (float)(-rstd * rstd * along_mean);
            constant[c] = (float)(rstd * rstd * along_mean * mean[c] - rstd * slope_mean);
            norm->weight_gradient[item * channels + c] = (float)along_sum[c];
            norm->bias_gradient[item * channels + c] = (float)slope_sum[c];
        }
    }
    int64_t n_pixels = norm->n_frames * norm->n_bins;
    for (int64_t c = 0; c < channels; c += LANES) {
        const void *from = shifted(x, c, bf16), *slope = shifted(slopes, c, bf16);
        void *to = (void *)shifted(out, c, bf16);
        if (channels - c >= LANES)
            write_gradient(from, slope, to, n_pixels, channels, LANES, scale + c, shift + c, tilt + c, constant + c,
                           bf16);
        else
            write_gradient(from, slope, to, n_pixels, channels, channels - c, scale + c, shift + c, tilt + c,
                           constant + c, bf16);
    }
}

EACH_CPU static void one_forward(const Norm *norm, int64_t item, int bf16)
{
    if (bf16)
        item_forward(norm, item, 1);
    else
        item_forward(norm, item, 0);
}

EACH_CPU static void one_backward(const Norm *norm, int64_t item, int bf16)
{
    if (bf16)
        item_backward(norm, item, 1);
    else
        item_backward(norm, item, 0);
}

EXPORT int group_norm_relu_forward(const void *x, void *out, const uint8_t *mask, const float *weight,
                                    const float *bias, float *mean, float *rstd, int64_t batch, int64_t n_frames,
                                    int64_t n_bins, int64_t channels, int64_t groups, float eps, int64_t bf16,
                                    int64_t n_threads)
{
    Norm norm = {.x = x, .out = out, .mask = mask, .weight = weight, .bias = bias, .mean = mean, .rstd = rstd,
                 .n_frames = n_frames, .n_bins = n_bins, .channels = channels, .groups = groups, .eps = eps};
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int64_t item = 0; item < batch; item++)
        one_forward(&norm, item, bf16);
    return 0;
}

EXPORT int group_norm_relu_backward(const void *x, const void *slopes, void *x_gradient, const float *weight,
                                     const float *bias, float *mean, float *rstd, float *weight_gradient,
                                     float *bias_gradient, int64_t batch, int64_t n_frames, int64_t n_bins,
                                     int64_t channels, int64_t groups, int64_t bf16, int64_t n_threads)
{
    Norm norm = {.x = x, .slopes = slopes, .out = x_gradient, .weight = weight, .bias = bias, .mean = mean,
                 .rstd = rstd, .weight_gradient = weight_gradient, .bias_gradient = bias_gradient,
                 .n_frames = n_frames, .n_bins = n_bins, .channels = channels, .groups = groups};
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int64_t item = 0; item < batch; item++)
        one_backward(&norm, item, bf16);
    return 0;
}
