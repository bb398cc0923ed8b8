/* Log-mel filterbanks: waveforms (batch, n_samples) -> (batch, n_frames, n_mels), as `spkver.features.Fbank` defines
   them. LANES frames are worked on side by side, a lane each, so that every step of the FFT is one of vectors. Loops over
   lanes say `omp simd`: without it gcc unrolls them, and makes vectors across what stands around them. */

#include "kernels.h"

#define LANES 16
/* Floats between lines of samples: of a power of two they would all want the same places of the cache. */
#define APART 16
/* Kaldi's, see features.py. */
#define PREEMPHASIS 0.97f
#define FLOOR 1.1920928955078125e-7f

typedef float Lanes[LANES];

typedef struct {
    const float *waveforms, *window;
    const float *twiddles;        /* (2, n_fft / 2): cosine and sine of -2 pi k / n_fft */
    const float *mel;             /* (n_banks, n_mels, n_bins) */
    const int64_t *spans;         /* (n_banks, n_mels, 2): first bin that counts, and the one behind the last */
    const int64_t *banks;         /* (batch): which bank an item takes; NULL: the first */
    float *out;
    int64_t n_samples, n_frames, frame_length, frame_shift, n_fft, n_mels;
} Fbank;

/* The natural logarithm to 1 unit in the last place (S. Moshier's Cephes); of what is not a normal number, itself. */
INLINE float fast_log(float x)
{
    uint32_t bits = to_bits(x);
    float n = (float)((int32_t)(bits >> 23) - 126);
    float m = from_bits((bits & 0x007fffffu) | 0x3f000000u); /* in [.5, 1) */
    int small = m < 0.707106781186547524f;
    n = small ? n - 1.0f : n;
    m = (small ? m + m : m) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float square = m * m;
    float rest = p * m * square - 2.12194440e-4f * n - 0.5f * square;
    return x <= 3.4028234e38f ? m + rest + 0.693359375f * n : x;
}

/* A frame's samples, windowed, and zeros behind them. */
INLINE void windowed(const Fbank *fbank, const float *samples, float *line)
{
    int64_t length = fbank->frame_length;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < length; i++)
        sum += samples[i];
    /* Of a frame without its mean; the first sample follows itself. */
    float offset = (1.0f - PREEMPHASIS) * sum / (float)length;
    line[0] = ((1.0f - PREEMPHASIS) * samples[0] - offset) * fbank->window[0];
    for (int64_t i = 1; i < length; i++)
        line[i] = (samples[i] - PREEMPHASIS * samples[i - 1] - offset) * fbank->window[i];
    for (int64_t i = length; i < fbank->n_fft; i++)
        line[i] = 0.0f;
}

/* LANES lines of n_fft samples side by side: even ones to `real`, odd ones to `imag`, in bit-reversed order. */
INLINE void lay_out(const Fbank *fbank, const float *lines, const int32_t *reversed, Lanes *real, Lanes *imag)
{
    int64_t half = fbank->n_fft / 2, stride = fbank->n_fft + APART;
    for (int64_t i = 0; i < half; i++) {
        float *re = real[reversed[i]], *im = imag[reversed[i]];
        const float *at = lines + 2 * i;
        for (int64_t lane = 0; lane < LANES; lane++) {
            re[lane] = at[lane * stride];
            im[lane] = at[lane * stride + 1];
        }
    }
}

INLINE void butterflies(Lanes *restrict real, Lanes *restrict imag, Lanes *restrict real_far, Lanes *restrict imag_far,
                        float cosine, float sine)
{
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; lane++) {
        float turned_real = (*real_far)[lane] * cosine - (*imag_far)[lane] * sine;
        float turned_imag = (*real_far)[lane] * sine + (*imag_far)[lane] * cosine;
        (*real_far)[lane] = (*real)[lane] - turned_real;
        (*imag_far)[lane] = (*imag)[lane] - turned_imag;
        (*real)[lane] += turned_real;
        (*imag)[lane] += turned_imag;
    }
}

/* Two stages at once, of four numbers `distance` apart: half of the loads and stores. `turn`: of the second stage. */
INLINE void two_stages(Lanes *real, Lanes *imag, int64_t distance, const float *cosines, const float *sines,
                       int64_t turn)
{
    float cosine = cosines[2 * turn], sine = sines[2 * turn], far_cosine = cosines[turn], far_sine = sines[turn];
    float *re0 = real[0], *re1 = real[distance], *re2 = real[2 * distance], *re3 = real[3 * distance];
    float *im0 = imag[0], *im1 = imag[distance], *im2 = imag[2 * distance], *im3 = imag[3 * distance];
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; lane++) {
        float turned_re1 = re1[lane] * cosine - im1[lane] * sine, turned_im1 = re1[lane] * sine + im1[lane] * cosine;
        float turned_re3 = re3[lane] * cosine - im3[lane] * sine, turned_im3 = re3[lane] * sine + im3[lane] * cosine;
        float sum_re = re0[lane] + turned_re1, sum_im = im0[lane] + turned_im1;
        float difference_re = re0[lane] - turned_re1, difference_im = im0[lane] - turned_im1;
        float far_re = re2[lane] + turned_re3, far_im = im2[lane] + turned_im3;
        float last_re = re2[lane] - turned_re3, last_im = im2[lane] - turned_im3;
        float turned_re2 = far_re * far_cosine - far_im * far_sine;
        float turned_im2 = far_re * far_sine + far_im * far_cosine;
        /* A quarter turn further: times -i. */
        float turned_re4 = last_re * far_sine + last_im * far_cosine;
        float turned_im4 = last_im * far_sine - last_re * far_cosine;
        re0[lane] = sum_re + turned_re2;
        im0[lane] = sum_im + turned_im2;
        re2[lane] = sum_re - turned_re2;
        im2[lane] = sum_im - turned_im2;
        re1[lane] = difference_re + turned_re4;
        im1[lane] = difference_im + turned_im4;
        re3[lane] = difference_re - turned_re4;
        im3[lane] = difference_im - turned_im4;
    }
}

/* In place, of n_fft / 2 complex numbers in bit-reversed order (Cooley & Tukey, 1965). */
INLINE void transform(const Fbank *fbank, Lanes *real, Lanes *imag)
{
    int64_t half = fbank->n_fft / 2, distance = 1;
    const float *cosines = fbank->twiddles, *sines = cosines + half;
    for (; 2 * distance < half; distance *= 4)
        for (int64_t start = 0; start < half; start += 4 * distance)
            for (int64_t k = 0; k < distance; k++)
                two_stages(real + start + k, imag + start + k, distance, cosines, sines, k * (half / distance / 2));
    if (distance < half)
        for (int64_t k = 0; k < distance; k++) {
            int64_t turn = k * (half / distance), far = k + distance;
            butterflies(real + k, imag + k, real + far, imag + far, cosines[turn], sines[turn]);
        }
}

/* Of the whole frame's spectrum from that of its even and odd samples: power of bins 0 to n_fft / 2. */
INLINE void power_of(const Fbank *fbank, Lanes *real, Lanes *imag, Lanes *power)
{
    int64_t half = fbank->n_fft / 2;
#pragma omp simd
    for (int64_t lane = 0; lane < LANES; lane++) {
        float sum = real[0][lane] + imag[0][lane], difference = real[0][lane] - imag[0][lane];
        power[0][lane] = sum * sum;
        power[half][lane] = difference * difference;
    }
    for (int64_t bin = 1; bin < half; bin++) {
        float cosine = fbank->twiddles[bin], sine = fbank->twiddles[half + bin];
        const float *re = real[bin], *im = imag[bin], *mirror_re = real[half - bin], *mirror_im = imag[half - bin];
#pragma omp simd
        for (int64_t lane = 0; lane < LANES; lane++) {
            float even_re = re[lane] + mirror_re[lane], even_im = im[lane] - mirror_im[lane];
            float odd_re = im[lane] + mirror_im[lane], odd_im = mirror_re[lane] - re[lane];
            float sum_re = even_re + odd_re * cosine - odd_im * sine;
            float sum_im = even_im + odd_re * sine + odd_im * cosine;
            power[bin][lane] = 0.25f * (sum_re * sum_re + sum_im * sum_im);
        }
    }
}

INLINE void write_mels(const Fbank *fbank, int64_t item, int64_t frame, const Lanes *power)
{
    int64_t n_bins = fbank->n_fft / 2 + 1, n_mels = fbank->n_mels, bank = fbank->banks ? fbank->banks[item] : 0;
    int64_t n_lanes = fbank->n_frames - frame < LANES ? fbank->n_frames - frame : LANES;
    float *out = fbank->out + (item * fbank->n_frames + frame) * n_mels;
    for (int64_t m = 0; m < n_mels; m++) {
        const float *weight = fbank->mel + (bank * n_mels + m) * n_bins;
        const int64_t *span = fbank->spans + (bank * n_mels + m) * 2;
        float sum[LANES] = {0};
        for (int64_t bin = span[0]; bin < span[1]; bin++)
#pragma omp simd
            for (int64_t lane = 0; lane < LANES; lane++)
                sum[lane] += weight[bin] * power[bin][lane];
#pragma omp simd
        for (int64_t lane = 0; lane < LANES; lane++)
            sum[lane] = fast_log(sum[lane] < FLOOR ? FLOOR : sum[lane]);
        for (int64_t lane = 0; lane < n_lanes; lane++)
            out[lane * n_mels + m] = sum[lane];
    }
}

/* Up to LANES frames of an item from `frame` on; `room`: 3 * (n_fft / 2 + 1) Lanes and LANES lines of samples. */
EACH_CPU static void some_frames(const Fbank *fbank, int64_t item, int64_t frame, const int32_t *reversed, float *room)
{
    int64_t n_bins = fbank->n_fft / 2 + 1;
    Lanes *real = (Lanes *)room, *imag = real + n_bins, *power = imag + n_bins;
    float *lines = (float *)(power + n_bins);
    for (int64_t lane = 0; lane < LANES; lane++) {
        /* Lanes beyond the last frame repeat it. */
        int64_t at = frame + lane < fbank->n_frames ? frame + lane : fbank->n_frames - 1;
        const float *samples = fbank->waveforms + item * fbank->n_samples + at * fbank->frame_shift;
        windowed(fbank, samples, lines + lane * (fbank->n_fft + APART));
    }
    lay_out(fbank, lines, reversed, real, imag);
    transform(fbank, real, imag);
    power_of(fbank, real, imag, power);
    write_mels(fbank, item, frame, power);
}

static void reverse_bits(int32_t *reversed, int64_t n)
{
    reversed[0] = 0;
    for (int64_t known = 1; known < n; known *= 2)
        for (int64_t i = 0; i < known; i++) {
            reversed[i] *= 2;
            reversed[known + i] = reversed[i] + 1;
        }
}

/* 0, or -1 where there was no memory. */
EXPORT int log_mel(const float *waveforms, const float *window, const float *twiddles, const float *mel,
                   const int64_t *spans, const int64_t *banks, float *out, int64_t batch, int64_t n_samples,
                   int64_t n_frames, int64_t frame_length, int64_t frame_shift, int64_t n_fft, int64_t n_mels,
                   int64_t bf16, int64_t n_threads)
{
    (void)bf16; /* waveforms are float32 */
    Fbank fbank = {.waveforms = waveforms, .window = window, .twiddles = twiddles, .mel = mel, .spans = spans,
                   .banks = banks, .out = out, .n_samples = n_samples, .n_frames = n_frames,
                   .frame_length = frame_length, .frame_shift = frame_shift, .n_fft = n_fft, .n_mels = n_mels};
    int64_t n_floats = (3 * (n_fft / 2 + 1) + n_fft + APART) * LANES;
    int32_t *reversed = malloc(n_fft / 2 * sizeof(int32_t));
    int failed = !reversed;
    if (reversed)
        reverse_bits(reversed, n_fft / 2);
#pragma omp parallel num_threads(n_threads) reduction(| : failed)
    {
        char *memory = malloc(n_floats * sizeof(float) + sizeof(Lanes));
        /* Lanes that begin within a line of the cache would take two. */
        float *room = (float *)(((uintptr_t)memory + sizeof(Lanes) - 1) / sizeof(Lanes) * sizeof(Lanes));
        failed |= !memory;
#pragma omp for collapse(2)
        for (int64_t item = 0; item < batch; item++)
            for (int64_t frame = 0; frame < n_frames; frame += LANES)
                if (memory && reversed)
                    some_frames(&fbank, item, frame, reversed, room);
        free(memory);
    }
    free(reversed);
    return -failed;
}
