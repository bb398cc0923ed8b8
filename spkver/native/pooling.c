/* Statistics pooling: weighted mean and standard deviation over time of frames (batch, n_frames, channels).

   The weights are equal, or each channel's softmax over time of its `energy` (as frames). `mask` (batch, n_frames)
   bytes, or NULL: frames that count, one at least. Nothing of the size of the frames is kept for the backward pass. */

#include "kernels.h"

typedef struct {
    const void *frames, *energy;
    const uint8_t *mask;
    float *mean, *deviation;                     /* (batch, channels) */
    float *highest, *inverse;                    /* (batch, channels): softmax's maximum and 1 / sum */
    const float *mean_slope, *deviation_slope;   /* (batch, channels) */
    void *frames_gradient, *energy_gradient;     /* as frames */
    int64_t n_frames, channels;
    float floor;                                 /* of variances */
} Pool;

INLINE int counts(const Pool *pool, int64_t item, int64_t t)
{
    return !pool->mask || pool->mask[item * pool->n_frames + t];
}

INLINE void block_forward(const Pool *pool, int64_t item, int64_t first, int64_t width, int has_energy, int bf16)
{
    int64_t n_frames = pool->n_frames, channels = pool->channels, n_valid = 0;
    const void *frames = shifted(pool->frames, item * n_frames * channels + first, bf16);
    const void *energy = has_energy ? shifted(pool->energy, item * n_frames * channels + first, bf16) : NULL;
    float highest[BLOCK], sum[BLOCK] = {0}, mean[BLOCK] = {0}, variance[BLOCK] = {0};
    for (int64_t c = 0; c < BLOCK; c++)
        highest[c] = -__builtin_inff();
    for (int64_t t = 0; t < n_frames; t++)
        if (counts(pool, item, t)) {
            n_valid++;
            if (has_energy)
                for (int64_t c = 0; c < width; c++) {
                    float value = get(energy, t * channels + c, bf16);
                    highest[c] = value > highest[c] || value != value ? value : highest[c];
                }
        }
    for (int64_t t = 0; t < n_frames; t++)
        if (counts(pool, item, t))
            for (int64_t c = 0; c < width; c++) {
                float weight = has_energy ? fast_exp(get(energy, t * channels + c, bf16) - highest[c]) : 1.0f;
                sum[c] += weight;
                mean[c] += weight * get(frames, t * channels + c, bf16);
            }
    for (int64_t c = 0; c < width; c++) {
        sum[c] = 1.0f / sum[c];
        mean[c] *= sum[c];
    }
    for (int64_t t = 0; t < n_frames; t++)
        if (counts(pool, item, t))
            for (int64_t c = 0; c < width; c++) {
                float weight = has_energy ? fast_exp(get(energy, t * channels + c, bf16) - highest[c]) : 1.0f;
                float centred = get(frames, t * channels + c, bf16) - mean[c];
                variance[c] += weight * centred * centred;
            }
    int64_t at = item * channels + first;
    for (int64_t c = 0; c < width; c++) {
        pool->mean[at + c] = mean[c];
        pool->deviation[at + c] = __builtin_sqrtf(variance[c] * sum[c] + pool->floor);
        pool->highest[at + c] = highest[c];
        pool->inverse[at + c] = sum[c];
    }
}

INLINE void block_backward(const Pool *pool, int64_t item, int64_t first, int64_t width, int has_energy, int bf16)
{
    int64_t n_frames = pool->n_frames, channels = pool->channels, at = item * channels + first;
    const void *frames = shifted(pool->frames, item * n_frames * channels + first, bf16);
    const void *energy = has_energy ? shifted(pool->energy, item * n_frames * channels + first, bf16) : NULL;
    void *frames_gradient = (void *)shifted(pool->frames_gradient, item * n_frames * channels + first, bf16);
    void *energy_gradient =
        has_energy ? (void *)shifted(pool->energy_gradient, item * n_frames * channels + first, bf16) : NULL;
    float mean[BLOCK], highest[BLOCK], inverse[BLOCK], of_mean[BLOCK], of_variance[BLOCK], average[BLOCK];
    for (int64_t c = 0; c < width; c++) {
        float deviation = pool->deviation[at + c];
        mean[c] = pool->mean[at + c];
        highest[c] = pool->highest[at + c];
        inverse[c] = pool->inverse[at + c];
        of_mean[c] = pool->mean_slope[at + c];
        of_variance[c] = 0.5f * pool->deviation_slope[at + c] / deviation;
        average[c] = of_variance[c] * (deviation * deviation - pool->floor);
    }
    for (int64_t t = 0; t < n_frames; t++) {
        int seen = counts(pool, item, t);
        for (int64_t c = 0; c < width; c++) {
            int64_t i = t * channels + c;
            float weight = has_energy ? fast_exp(get(energy, i, bf16) - highest[c]) * inverse[c] : inverse[c];
            float centred = get(frames, i, bf16) - mean[c];
            weight = seen ? weight : 0.0f;
            put(frames_gradient, i, seen ? weight * (of_mean[c] + 2.0f * of_variance[c] * centred) : 0.0f, bf16);
            if (has_energy) {
                /* Of the weight, without what it has in common with all others: softmax sums to 1. */
                float slope = centred * (of_mean[c] + of_variance[c] * centred) - average[c];
                put(energy_gradient, i, seen ? weight * slope : 0.0f, bf16);
            }
        }
    }
}

INLINE void any_forward(const Pool *pool, int64_t item, int64_t first, int64_t width, int bf16)
{
    if (bf16 && pool->energy)
        block_forward(pool, item, first, width, 1, 1);
    else if (bf16)
        block_forward(pool, item, first, width, 0, 1);
    else if (pool->energy)
        block_forward(pool, item, first, width, 1, 0);
    else
        block_forward(pool, item, first, width, 0, 0);
}

/* A full block's loops have a fixed length, for which they are unrolled. */
EACH_CPU static void one_forward(const Pool *pool, int64_t item, int64_t first, int bf16)
{
    if (pool->channels - first >= BLOCK)
        any_forward(pool, item, first, BLOCK, bf16);
    else
        any_forward(pool, item, first, pool->channels - first, bf16);
}

INLINE void any_backward(const Pool *pool, int64_t item, int64_t first, int64_t width, int bf16)
{
    if (bf16 && pool->energy)
        block_backward(pool, item, first, width, 1, 1);
    else if (bf16)
        block_backward(pool, item, first, width, 0, 1);
    else if (pool->energy)
        block_backward(pool, item, first, width, 1, 0);
    else
        block_backward(pool, item, first, width, 0, 0);
}

/* A full block's loops have a fixed length, for which they are unrolled. */
EACH_CPU static void one_backward(const Pool *pool, int64_t item, int64_t first, int bf16)
{
    if (pool->channels - first >= BLOCK)
        any_backward(pool, item, first, BLOCK, bf16);
    else
        any_backward(pool, item, first, pool->channels - first, bf16);
}

EXPORT int pool_forward(const void *frames, const void *energy, const uint8_t *mask, float *mean, float *deviation,
                         float *highest, float *inverse, int64_t batch, int64_t n_frames, int64_t channels, float floor,
                         int64_t bf16, int64_t n_threads)
{
    Pool pool = {.frames = frames, .energy = energy, .mask = mask, .mean = mean, .deviation = deviation,
                 .highest = highest, .inverse = inverse, .n_frames = n_frames, .channels = channels, .floor = floor};
#pragma omp parallel for collapse(2) num_threads(n_threads) schedule(dynamic, 4)
    for (int64_t item = 0; item < batch; item++)
        for (int64_t first = 0; first < channels; first += BLOCK)
            one_forward(&pool, item, first, bf16);
    return 0;
}

EXPORT int pool_backward(const void *frames, const void *energy, const uint8_t *mask, float *mean, float *deviation,
                          float *highest, float *inverse, const float *mean_slope, const float *deviation_slope,
                          void *frames_gradient, void *energy_gradient, int64_t batch, int64_t n_frames,
                          int64_t channels, float floor, int64_t bf16, int64_t n_threads)
{
    Pool pool = {.frames = frames, .energy = energy, .mask = mask, .mean = mean, .deviation = deviation,
                 .highest = highest, .inverse = inverse, .mean_slope = mean_slope, .deviation_slope = deviation_slope,
                 .frames_gradient = frames_gradient, .energy_gradient = energy_gradient, .n_frames = n_frames,
                 .channels = channels, .floor = floor};
#pragma omp parallel for collapse(2) num_threads(n_threads) schedule(dynamic, 4)
    for (int64_t item = 0; item < batch; item++)
        for (int64_t first = 0; first < channels; first += BLOCK)
            one_backward(&pool, item, first, bf16);
    return 0;
}
