create table if not exists public.favourites (user_id bigint, video_id bigint, primary key (user_id, video_id));
